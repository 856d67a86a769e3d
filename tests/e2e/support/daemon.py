"""The daemon under test, in a home directory of its own."""

import itertools
import json
import os
import re
import signal
import shutil
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from . import proc
from .bus import ERROR_CODE, ERROR_TEXT
from .waiting import DEADLINE, eventually

BINARY = os.environ.get("NATS_PI_BRIDGE") or str(Path(__file__).parents[3] / "target/debug/nats-pi-bridge")
API_KEY = "sk-test-5up3r-s3cr3t"
_numbers = itertools.count(1)


# One model per API that is spoken.
MODELS = {
    "anthropic-messages": "scripted/one",
    "openai-completions": "scripted-completions/two",
    "openai-responses": "scripted-responses/three",
    "google-generative-ai": "scripted-google/four",
}


def providers(model_url):
    """models.json with the scripted model behind each API."""
    limits = {"contextWindow": 200000, "maxTokens": 8192}
    cost = {"input": 3, "output": 15, "cacheRead": 0.3, "cacheWrite": 3.75}
    found = {}
    for api, spec in MODELS.items():
        provider, model = spec.split("/")
        # The path of one API begins with a version, which is part of the others' base URL.
        base_url = model_url if api == "anthropic-messages" else f"{model_url}/v1"
        models = [{"id": model, **limits, "cost": cost}]
        found[provider] = {"baseUrl": base_url, "api": api, "apiKey": API_KEY, "models": models}
    found["scripted"]["models"].append({"id": "thinker", "reasoning": True, **limits})
    return {"providers": found}


@dataclass
class Refusal:
    """An error of the intake."""

    document: dict
    headers: dict
    terminated: bool = False
    """A bare empty message followed."""

    @property
    def error(self):
        return self.document["error"]

    @property
    def code(self):
        """The header's number; fails when the headers are missing."""
        assert self.headers[ERROR_TEXT]
        return int(self.headers[ERROR_CODE])


class Daemon:
    """One process. Nothing is started before `start`, so that a test can put more files into the home first."""

    def __init__(self, directory, server_url=None, bus=None, model_url=None, owner=None, binary=BINARY):
        self.binary = binary
        self.home = directory / "home"
        self.agent_dir = self.home / ".pi/agent"
        self.cwd = directory / "work"
        for path in (self.agent_dir, self.cwd, self.home / ".pi-exec"):
            path.mkdir(parents=True, exist_ok=True)
        self.bus = bus
        self.owner = owner or f"t{os.getpid()}-{next(_numbers)}"
        self.intake = f"agents.pi-exec.{self.owner}"
        # Retries are about order and count here, so their waits are short.
        self.write_agent_file("settings.json", {"retry": {"baseDelayMs": 20}})
        self.config = {"owner": self.owner}
        if server_url:
            self.config["server"] = server_url
        if model_url:
            self.write_agent_file("models.json", providers(model_url))
            self.config["defaultModel"] = "scripted/one"
        # Not below the test's own folder, whose name is too long for a socket's.
        self.bridge_root = Path(tempfile.mkdtemp(prefix="bridge-"))
        self.bridge_dir = self.bridge_root / "b"
        self.environment = {"PATH": os.environ["PATH"], "HOME": str(self.home), "USER": "tester", "LANG": "C.UTF-8"}
        self.environment["PI_BRIDGE_DIR"] = str(self.bridge_dir)
        self.process = None
        self.replaced = []
        self.log = []
        self._logged = threading.Condition()

    def write_agent_file(self, name, content):
        path = self.agent_dir / name
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        path.chmod(0o600)
        return path

    def write_config(self):
        path = self.home / ".pi-exec/config.json"
        path.unlink(missing_ok=True)
        if self.config is not None:
            path.write_text(json.dumps(self.config))

    def context(self, name, **fields):
        """Writes a context of the nats command; returns its path."""
        path = self.home / ".config/nats/context" / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(fields))
        return path

    def settings(self, *arguments):
        """What --check prints: name -> (value, origin)."""
        done = self.run_to_end(*arguments, "--check")
        assert done.returncode == 0, done.stderr
        lines = [re.fullmatch(r"(\S+) = (.*?)  \((.*)\)", line) for line in done.stdout.splitlines()]
        assert all(lines), done.stdout
        return {line[1]: (line[2], line[3]) for line in lines}

    def values(self, *arguments):
        return {name: value for name, (value, _) in self.settings(*arguments).items()}

    def run_to_end(self, *arguments, timeout=DEADLINE):
        """Runs the binary until it ends by itself; returns the completed process with text output."""
        self.write_config()
        return subprocess.run(
            [self.binary, *arguments], env=self.environment, cwd=self.cwd, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=timeout,
        )

    def spawn(self, *arguments):
        """Starts the process and does not wait for it to be ready."""
        self.write_config()
        self.log = []
        self.process = subprocess.Popen(
            [self.binary, *arguments], env=self.environment, cwd=self.cwd, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace",
        )
        threading.Thread(target=self._read_log, args=(self.process,), name="log", daemon=True).start()
        return self

    def start(self, *arguments):
        """Starts the process and waits until it answers."""
        self.spawn(*arguments)
        self.wait_log(rf"intake registered on {re.escape(self.intake)}$")
        self.wait_ready()
        return self

    def replace(self, *arguments, binary=None):
        """Starts another process beside the one that runs, and waits until that has gone; returns the old process. The log
        is that of both."""
        old = self.begin_replacing(*arguments, binary=binary)
        self.wait_log("took over")
        assert old.wait(DEADLINE) == 0
        return old

    def begin_replacing(self, *arguments, binary=None):
        """Starts another process beside the one that runs, which is returned."""
        old, before = self.process, self.binary
        self.replaced.append(old)
        self.binary = binary or before
        try:
            self.spawn("--replace", *arguments)
        finally:
            self.binary = before
        return old

    def wait_ready(self):
        """The server may hear of the subscription a little later than the log; around a restart requests get lost."""

        def answers():
            try:
                return "sessions" in self.list(timeout=2)
            except AssertionError:  # No responders, or no answer.
                return False

        eventually(answers, "the intake answers")

    def _read_log(self, process):
        with process.stderr as lines:
            for line in lines:
                with self._logged:
                    self.log.append(line.rstrip("\n"))
                    self._logged.notify_all()
        with self._logged:
            self._logged.notify_all()

    def wait_log(self, pattern, timeout=DEADLINE):
        """Waits for a line of the log that matches; returns it."""
        compiled = re.compile(pattern)

        def find():
            return next((line for line in self.log if compiled.search(line)), None)

        end = time.monotonic() + timeout
        with self._logged:
            while (found := find()) is None:
                left = end - time.monotonic()
                ended = self.process.poll() is not None
                assert left > 0 and not ended, f"no {pattern!r} in the log (ended: {ended}):\n{self.log_text()}"
                self._logged.wait(min(left, 0.2))
        return found

    def log_text(self):
        return "\n".join(self.log)

    # What it keeps.

    @property
    def state_dir(self):
        return self.home / ".pi-exec/state" / self.owner

    def session_files(self):
        return sorted((self.agent_dir / "sessions").glob("*/*.jsonl"))

    # What callers do.

    def run(self, body, **fields):
        return self.bus.request(self.intake, {"sessionMode": "run", "body": body, "cwd": str(self.cwd), **fields})

    def session(self, session_id, body, **fields):
        """Creates a session; returns the stream of its initial prompt."""
        request = {"sessionMode": "session", "sessionId": session_id, "body": body, "cwd": str(self.cwd), **fields}
        return self.bus.request(self.intake, request)

    def prompt(self, session_id, payload):
        return self.bus.request(self.subject(session_id), payload)

    def subject(self, session_id):
        return f"{self.intake}.{session_id}"

    def list(self, timeout=DEADLINE):
        return self.bus.ask_json(self.intake, {"sessionMode": "list"}, timeout)

    def discover(self):
        """The daemon's intake answers discovery."""
        self.bus.ask("$SRV.PING.pi-exec")

    def session_ids(self):
        return [session["sessionId"] for session in self.list()["sessions"]]

    def inspect(self, session_id):
        return self.bus.ask_json(f"{self.subject(session_id)}.inspect")

    def inspect_if_there(self, session_id):
        """What inspect says, or that of an idle session if nobody answers."""
        try:
            return self.bus.ask_json(f"{self.subject(session_id)}.inspect", timeout=2)
        except AssertionError:
            return {"activeRequest": self.running()}

    def stop_session(self, session_id):
        return self.bus.ask_json(self.intake, {"sessionMode": "stop", "sessionId": session_id})

    def wait_session(self, session_id, condition, what):
        """Waits until `condition` holds for what inspect says."""
        return eventually(lambda: (facts := self.inspect(session_id)) and condition(facts) and facts, what)

    def refusal(self, payload, headers=None):
        """Sends the intake a request that it must refuse; returns what it said."""
        stream = self.bus.request(self.intake, payload, headers)
        message = stream.message()
        assert message.data.startswith(b'{"error"'), f"not refused: {message.data[:200]!r}"
        found = Refusal(json.loads(message.data), message.headers or {})
        # The fence: a terminator, if there is one, was sent right after the error.
        self.list()
        self.bus.flush()
        if stream.pending():
            stream.terminator()
        found.terminated = stream.ended
        assert stream.pending() == 0
        return found

    def assert_nothing_follows(self, *streams):
        """Nothing may come after the end of a stream. The answer of a later request is the fence: what had been sent
        before it has arrived before it."""
        self.list()
        self.bus.flush()
        for stream in streams:
            assert stream.pending() == 0, f"after the end: {stream.message().data!r}"

    @property
    def socket(self):
        """The daemon's own socket of the side channel."""
        return self.bridge_dir / f"pi-{self.pid}.sock"

    def session_socket(self, session_id, pid=None):
        return self.bridge_dir / f"pi-{pid or self.pid}-{session_id}.sock"

    # The process.

    @property
    def pid(self):
        return self.process.pid

    def signal(self, number=signal.SIGTERM):
        self.process.send_signal(number)

    def wait_exit(self, timeout=DEADLINE):
        """The exit code; fails when the process does not end in time."""
        return self.process.wait(timeout)

    def running(self):
        return self.process is not None and self.process.poll() is None

    def close(self):
        """Ends the process whatever state it is in, with what it started."""
        for process in [self.process, *self.replaced]:
            if process is not None and process.poll() is None:
                self._kill(process)
        shutil.rmtree(self.bridge_root, ignore_errors=True)

    def _kill(self, process):
        left = proc.children(process.pid)
        process.kill()
        process.wait(10)
        for child in left:
            try:
                os.killpg(child, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                pass
