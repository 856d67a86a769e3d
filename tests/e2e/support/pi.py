"""The PI agent as its makers publish it, for the tests of what both read and write."""

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

    def compact(self, session):
        """Compacts a session; returns what PI says of it."""
        process = subprocess.Popen(
            self._command("rpc", session), env=self._environment, cwd=self._cwd, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )
        lines = queue.Queue()
        reader = threading.Thread(target=lambda: [lines.put(line) for line in process.stdout], name="pi", daemon=True)
        reader.start()
        try:
            process.stdin.write('{"id":"1","type":"compact"}\n')
            process.stdin.flush()
            while (answer := json.loads(lines.get(timeout=RUN_TIMEOUT))).get("id") != "1":
                pass
        finally:
            process.kill()
            process.wait(DEADLINE)
            reader.join(DEADLINE)
            process.stdin.close()
            process.stdout.close()
        assert answer["success"], answer
        return answer["data"]

    def session_file(self, session_id):
        (file,) = self._sessions.glob(f"*/*_{session_id}.jsonl")
        return file
