"""As a service of systemd: readiness, status and watchdog over NOTIFY_SOCKET, levels for the journal."""

import os
import re
import signal
import socket
import subprocess
import time

import pytest

from support.daemon import BINARY
from support.waiting import DEADLINE, eventually


class Systemd:
    """The socket on which a service manager hears of its services."""

    def __init__(self, address):
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address)
        self._socket.settimeout(DEADLINE)

    def hear(self, *wanted):
        """Reads until a message begins with one of these; returns it."""
        end = time.monotonic() + DEADLINE
        while time.monotonic() < end:
            message = self._socket.recv(4096).decode()
            if message.startswith(wanted):
                return message
        raise AssertionError(f"nothing of {wanted} was said")

    def close(self):
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def systemd(request, tmp_path_factory):
    name = tmp_path_factory.mktemp("sd") / "notify"
    systemd = Systemd(str(name) if request.param == "path" else f"\0{name}")
    systemd.variable = str(name) if request.param == "path" else f"@{name}"
    yield systemd
    systemd.close()


def test_it_says_when_it_is_ready_that_it_lives_and_when_it_stops(systemd, new_daemon, model):
    daemon = new_daemon()
    daemon.environment |= {"NOTIFY_SOCKET": systemd.variable, "WATCHDOG_USEC": "400000"}
    daemon.start()
    systemd.hear("READY=1")
    systemd.hear("STATUS=connected, 0 sessions, 0 running")
    model.script("ok")
    daemon.session("one", "hi").text()
    systemd.hear("STATUS=connected, 1 sessions, 0 running")
    for _ in range(3):
        systemd.hear("WATCHDOG=1")
    daemon.process.send_signal(signal.SIGTERM)
    systemd.hear("STOPPING=1")


def test_a_watchdog_of_another_process_is_not_fed(systemd, new_daemon):
    daemon = new_daemon()
    daemon.environment |= {"NOTIFY_SOCKET": systemd.variable, "WATCHDOG_USEC": "400000", "WATCHDOG_PID": "1"}
    daemon.start()
    assert systemd.hear("READY=1", "WATCHDOG=1") == "READY=1"
    daemon.process.send_signal(signal.SIGTERM)
    assert systemd.hear("STOPPING=1", "WATCHDOG=1") == "STOPPING=1"


def test_a_supervisor_that_is_not_there_harms_nothing(new_daemon):
    daemon = new_daemon()
    daemon.environment["NOTIFY_SOCKET"] = "/nonexistent/notify"
    daemon.start()
    daemon.wait_log("NOTIFY_SOCKET /nonexistent/notify: ")


def test_the_journal_gets_levels_and_no_name(new_daemon, tmp_path):
    """Standard error is the journal's if JOURNAL_STREAM names its device and number."""
    daemon = new_daemon()
    daemon.write_config()
    journal = tmp_path / "journal"
    with open(journal, "wb") as stream:
        of_stream = os.fstat(stream.fileno())
        environment = {**daemon.environment, "JOURNAL_STREAM": f"{of_stream.st_dev}:{of_stream.st_ino}"}
        process = subprocess.Popen([BINARY], env=environment, cwd=daemon.cwd, stdin=subprocess.DEVNULL, stderr=stream)
    try:
        eventually(lambda: f"<6>intake registered on {daemon.intake}\n" in journal.read_text(), "the intake is registered")
        process.terminate()
        assert process.wait(DEADLINE) == 0
    finally:
        process.kill()
        process.wait(DEADLINE)
    lines = journal.read_text().splitlines()
    assert all(re.match(r"<[3467]>(?!pi-exec)", line) for line in lines), lines


def test_another_stream_gets_words(new_daemon):
    daemon = new_daemon()
    daemon.environment["JOURNAL_STREAM"] = "1:1"
    daemon.start()
    assert daemon.log_text().startswith("pi-exec: ")
