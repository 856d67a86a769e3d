"""The PI agent as its makers publish it, for the tests of what both read and write."""

import fcntl
import functools
import json
import os
import platform
import queue
import re
import shutil
import subprocess
import threading
from pathlib import Path

import pytest

from .waiting import DEADLINE

INSTALL_TIMEOUT = 240
# Node starts, loads the package, asks the model and ends.
RUN_TIMEOUT = 45
REGISTRY_TIMEOUT = 30
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
        for program in ("node", "npm"):
            if not shutil.which(program):
                pytest.skip(f"{program} is not installed")
        version = self._version or newest(self._package)
        wanted = [f"{self._package}@{version}"]
        node = "node"
        if node_version() < self._oldest_node:
            package = f"node-linux-{'arm64' if platform.machine() == 'aarch64' else 'x64'}"
            wanted.append(f"{package}@{NODE}")
            node = None
        target = Path(os.environ.get("CARGO_TARGET_DIR") or Path(__file__).parents[3] / "target")
        folder = target / "npm" / f"pi-coding-agent-{version}"
        folder.mkdir(parents=True, exist_ok=True)
        # Several workers want it at the same time; the stamp says that an installation was completed.
        with open(folder / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            stamp = folder / "installed"
            if not stamp.exists():
                install(folder, wanted)
                stamp.touch()
        program = folder / "node_modules" / self._package / "dist/cli.js"
        assert program.is_file()
        return [node or str(folder / "node_modules" / package / "bin/node"), str(program)]


# The last one under the old name, and the newest. Both wrote files that users have.
RELEASES = [
    Release("@mariozechner/pi-coding-agent", "0.73.1", (20, 6)),
    Release("@earendil-works/pi-coding-agent", None, (22, 19)),
]


def node_version():
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, timeout=DEADLINE).stdout
    numbers = re.match(r"v(\d+)\.(\d+)", version)
    return tuple(map(int, numbers.groups())) if numbers else (0, 0)


@functools.cache
def newest(package):
    try:
        asked = subprocess.run(
            ["npm", "view", package, "version"], stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=REGISTRY_TIMEOUT,
        )
    except subprocess.TimeoutExpired:
        pytest.skip("npm's registry does not answer")
    if asked.returncode != 0:
        pytest.skip(f"npm does not know {package}: {asked.stderr[-500:]}")
    return asked.stdout.strip()


def install(folder, packages):
    (folder / "package.json").write_text('{"private": true}')
    command = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", *packages]
    try:
        done = subprocess.run(
            command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=INSTALL_TIMEOUT
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"npm did not install {packages} within {INSTALL_TIMEOUT} s")
    if done.returncode != 0:
        pytest.skip(f"npm cannot install {packages}: {done.stderr[-500:]}")


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
