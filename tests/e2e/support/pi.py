"""The PI agent as its makers publish it, for the tests of what both read and write."""

import itertools
import json
import platform
import queue
import subprocess
import threading

from . import npm
from .waiting import DEADLINE

# Node starts, loads the package, asks the model and ends.
RUN_TIMEOUT = 45
# From npm as well, for a release that needs a newer one than the system has.
NODE = "22.23.3"


class Release:
    """One release of PI; `version` None is the newest that is published."""

    def __init__(self, package, version, oldest_node):
        self._package, self._version, self._oldest_node = package, version, oldest_node

    def __str__(self):
        return self._version or "newest"

    def installed(self):
        """The command that starts PI. Installs the package at first; skips the test where that cannot be done."""
        npm.required()
        version = self._version or npm.newest(self._package)
        wanted = [f"{self._package}@{version}"]
        node = "node"
        if npm.node_version() < self._oldest_node:
            package = f"node-linux-{'arm64' if platform.machine() == 'aarch64' else 'x64'}"
            wanted.append(f"{package}@{NODE}")
            node = None
        folder = npm.installed(f"pi-coding-agent-{version}", wanted)
        program = folder / "node_modules" / self._package / "dist/cli.js"
        assert program.is_file()
        return [node or str(folder / "node_modules" / package / "bin/node"), str(program)]


# The last one under the old name, and the newest. Both wrote files that users have.
RELEASES = [
    Release("@mariozechner/pi-coding-agent", "0.73.1", (20, 6)),
    Release("@earendil-works/pi-coding-agent", None, (22, 19)),
]


class Pi:
    """PI with the home directory, the settings and the models of a daemon."""

    def __init__(self, daemon, release):
        self.release = release
        self._program = release.installed()
        self._cwd = daemon.cwd
        self._environment = {
            **daemon.environment,
            "PI_CODING_AGENT_DIR": str(daemon.agent_dir),
            "PI_OFFLINE": "1",
            "PI_TELEMETRY": "0",
        }
        self._sessions = daemon.agent_dir / "sessions"

    def _command(self, mode, session):
        command = [*self._program, "--mode", mode, "--model", "scripted/one"]
        return command + (["--session", str(session)] if session else [])

    def prompt(self, text, session=None):
        """Runs one prompt, in a new session or in the one of a file; returns the session's file."""
        done = subprocess.run(
            [*self._command("json", session), text], env=self._environment, cwd=self._cwd, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=RUN_TIMEOUT,
        )
        assert done.returncode == 0, done.stderr
        events = [json.loads(line) for line in done.stdout.splitlines()]
        header = events[0]
        assert header["type"] == "session"
        last = next(event for event in reversed(events) if event["type"] == "agent_end")["messages"][-1]
        assert last["stopReason"] == "stop", last
        return self.session_file(header["id"])

    def running(self, session):
        """A process of PI that stays, with a session's file open."""
        return RunningPi(self._command("rpc", session), self._environment, self._cwd)

    def compact(self, session):
        """Compacts a session; returns what PI says of it."""
        with self.running(session) as pi:
            return pi.ask("compact")

    def session_file(self, session_id):
        (file,) = self._sessions.glob(f"*/*_{session_id}.jsonl")
        return file


class RunningPi:
    """PI as a program that other programs talk to."""

    def __init__(self, command, environment, cwd):
        self._process = subprocess.Popen(
            command, env=environment, cwd=cwd, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True,
        )
        self._lines = queue.Queue()
        self._reader = threading.Thread(target=self._read, name="pi", daemon=True)
        self._reader.start()
        self._numbers = itertools.count(1)

    def _read(self):
        for line in self._process.stdout:
            self._lines.put(line)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.kill()
        self._process.wait(DEADLINE)
        self._reader.join(DEADLINE)
        self._process.stdin.close()
        self._process.stdout.close()

    def _next(self, condition):
        while not condition(record := json.loads(self._lines.get(timeout=RUN_TIMEOUT))):
            pass
        return record

    def ask(self, kind, **fields):
        """Sends a command; returns what it was answered with."""
        request = {"id": str(next(self._numbers)), "type": kind, **fields}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = self._next(lambda record: record.get("id") == request["id"])
        assert answer["success"], answer
        return answer.get("data")

    def prompt(self, text, session):
        """Reads a session's file, and runs one prompt in it."""
        assert not self.ask("switch_session", sessionPath=str(session))["cancelled"]
        self.ask("prompt", message=text)
        last = self._next(lambda record: record["type"] == "agent_end")["messages"][-1]
        assert last["stopReason"] == "stop", last
