"""Programs that tools start: without a terminal, and with an output that stays open in the background."""

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import termios
import time

import pytest

from support import proc
from support.waiting import eventually

pytestmark = pytest.mark.any_server


def tool(command, **arguments):
    return f"@tool bash {json.dumps({'command': command, **arguments})}"


@pytest.fixture
def offline(new_daemon):
    daemon = new_daemon()
    daemon.config["defaultModel"] = "offline/demo"
    return daemon


@pytest.fixture(params=["leads the terminal's session", "is a shell's child"])
def at_a_terminal(offline, request, monkeypatch):
    """The daemon, started by hand from a terminal."""
    master, slave = os.openpty()

    def take_terminal():
        os.setsid()
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)

    if request.param == "is a shell's child":
        # The shell stays, since the daemon is not its last command.
        wrapper = offline.home / "by-a-shell"
        wrapper.write_text(f'#!/bin/sh\n"{offline.binary}" "$@" &\ntrap "kill -TERM $!" TERM\nwait\nwait\n')
        wrapper.chmod(0o755)
        offline.binary = str(wrapper)
    popen = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda *args, **kwargs: popen(*args, preexec_fn=take_terminal, **kwargs))
    offline.start("--bash-timeout", "20")
    monkeypatch.undo()
    yield offline
    # A shell's child is in the shell's group, which is not ended with it. What has ended since it was seen is no matter.
    for child in proc.children(offline.pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    os.close(slave)
    os.close(master)


@pytest.mark.parametrize("command", [
    "read -r x < /dev/tty; echo got",
    "echo hello > /dev/tty && echo got",
    "stty -F /dev/tty -echo && echo got",
    "(exec 3<>/dev/tty && echo got)",
])
def test_programs_have_no_terminal(at_a_terminal, command):
    begun = time.monotonic()
    text = at_a_terminal.run(tool(command)).text()
    assert "/dev/tty" in text and "got" not in text, text
    assert time.monotonic() - begun < 10


def test_a_key_command_has_no_terminal(at_a_terminal):
    at_a_terminal.write_agent_file("auth.json", {"anthropic": {
        "type": "api_key", "key": "!(exec < /dev/tty) 2> why; echo key"}})
    at_a_terminal.run("hi", model="anthropic/claude-haiku-4-5").failure()
    assert "/dev/tty" in (at_a_terminal.cwd / "why").read_text()


def test_git_does_not_ask(offline):
    assert "bash: 0" in offline.start().run(tool("echo $GIT_TERMINAL_PROMPT")).text()


def test_a_server_in_the_background_goes_on_printing(offline):
    offline.start()
    server = "python3 -u -m http.server 0 --bind 127.0.0.1 > >(tee port) 2>&1 & until grep -qs http port; do sleep 0.05; done"
    assert "Serving HTTP" in offline.session("s", tool(server)).text()
    ask = "curl -s -o /dev/null -w '%{http_code}' $(grep -o 'http://[^ /)]*' port)/"
    for _ in range(3):
        assert "200" in offline.prompt("s", tool(ask)).text(), "the server dies of its own log lines"


def test_a_call_ends_with_its_shell_while_something_else_prints(offline):
    offline.start("--bash-timeout", "30")
    begun = time.monotonic()
    text = offline.session("s", tool("(while :; do echo x; sleep 0.01; done) & echo $! > pid")).text()
    assert "bash: x" in text and "timed out" not in text
    assert time.monotonic() - begun < 10
    writer = int((offline.cwd / "pid").read_text())
    assert proc.alive(writer)
    offline.stop_session("s")
    eventually(lambda: not proc.alive(writer), "it ends with its session")


def test_a_timeout_in_milliseconds_is_capped_and_told(offline):
    offline.start("--bash-timeout", "1")
    begun = time.monotonic()
    text = offline.run(tool("sleep 60", timeout=30000)).text()
    assert "Command timed out after 1 seconds" in text and "not of milliseconds" in text
    assert time.monotonic() - begun < 20
