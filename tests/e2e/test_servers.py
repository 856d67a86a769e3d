"""NATS servers that are not set up as usual, what changes on them while the daemon runs, and a daemon that hangs."""

import contextlib
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from support.model_script import ToolCall
from support.waiting import DEADLINE, eventually

PASSWORDS = 'authorization {{ users: [ {{ user: me, password: "{}" }}, {{ user: other, password: "other" }} ] }}'


def test_a_server_without_headers_is_used_without_them(own_server, own_bus, new_daemon, model):
    server = own_server("no_header_support: true")
    daemon = new_daemon(server.url, own_bus(server.url)).start()
    model.script("hello", "again")
    assert daemon.session("worker", "hi").text() == "hello"
    assert daemon.prompt("worker", "go").text() == "again"
    refusal = daemon.bus.request(daemon.intake, b"{")
    message = refusal.message()
    assert not message.headers and json.loads(message.data)["error"] == "invalid_json"
    # A prompt's error is a document where text would be, and has its end like any other.
    refused = daemon.prompt("worker", b"")
    document = refused.message()
    assert not document.headers and b"prompt" in document.data.lower()
    refused.terminator()
    assert daemon.inspect("worker")["sessionId"] == "worker"


@pytest.mark.any_server  # The embedded broker reads no configuration anew.
@pytest.mark.parametrize("kind", ["password", "token"])
def test_changed_credentials_of_a_context_are_read_again(own_server, own_bus, new_daemon, kind):
    def config(secret):
        return PASSWORDS.format(secret) if kind == "password" else f'authorization {{ token: "{secret}" }}'

    def fields(secret):
        return {"user": "me", "password": secret} if kind == "password" else {"token": secret}

    server = own_server(config("old-secret"))
    bus = own_bus(server.url, **fields("old-secret"))
    daemon = new_daemon(server.url, bus)
    del daemon.config["server"]
    daemon.context("mine", url=server.url, **fields("old-secret"))
    daemon.start("--context", "mine")
    server.configure(config("new-secret"))
    server.process.send_signal(signal.SIGHUP)
    daemon.wait_log("(?i)authorization|authentication")
    # A file that is being written is not the end either.
    daemon.context("mine").write_text("{")
    daemon.context("mine", url=server.url, **fields("new-secret"))
    daemon.bus = own_bus(server.url, **fields("new-secret"))
    daemon.wait_ready()
    assert "secret" not in daemon.log_text()


@pytest.fixture
def full_pipe():
    """A pipe that nobody reads and that has no room: whoever writes to it hangs."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, b"x" * 4096)
    os.set_blocking(writing, True)
    yield writing
    os.close(reading)
    os.close(writing)


def test_a_second_signal_ends_a_start_that_hangs(new_daemon, full_pipe):
    """It hangs in its log, so that not even the signal could be logged."""
    daemon = new_daemon()
    daemon.write_config()
    process = subprocess.Popen([daemon.binary], env=daemon.environment, cwd=daemon.cwd, stderr=full_pipe)
    try:
        status = Path(f"/proc/{process.pid}/task")
        eventually(lambda: any((task / "comm").read_text() == "signals\n" for task in status.iterdir()), "signals are handled")
        process.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE) == 128 + signal.SIGTERM
    finally:
        process.kill()
        process.wait()


def test_a_third_signal_ends_at_once_with_all_tools(new_daemon, model):
    """With the grace period over and a tool that does not let itself be ended, nothing waits any longer."""
    daemon = new_daemon().start()
    pid = daemon.cwd / "pid"
    model.script([ToolCall("bash", {"command": f"echo $$ > {pid}; trap '' TERM; sleep 600"})])
    daemon.session("worker", "go")
    eventually(lambda: pid.exists() and pid.read_text().strip(), "the tool runs")
    begun = time.monotonic()
    for _ in range(3):
        daemon.signal()
        time.sleep(0.05)
    daemon.wait_exit()
    assert time.monotonic() - begun < 5
    eventually(lambda: not Path(f"/proc/{pid.read_text().strip()}").exists(), "the tool is gone")
