"""Ways for programs to outlive their session, or to end what watches over it, and what they may do to each other."""

import os
import time
from pathlib import Path

import pytest

from support import proc
from support.escapes import PYTHON, bash, full, make_daemon  # noqa: F401
from support.model_script import ToolCall
from support.waiting import eventually

pytestmark = pytest.mark.any_server

# Starts another one of its kind and ends, all the time, so that no list of processes ever shows it; each adds a byte to a file.
COMET = """
import os
if os.fork():
    os._exit(0)
file = os.open("trail", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
while True:
    os.write(file, b".")
    if os.fork():
        os._exit(0)
    os.setsid()
"""


def goes_on(path, time_without=1.0):
    """Whether a file grows within so many seconds."""
    before = path.stat().st_size
    end = time.monotonic() + time_without
    while time.monotonic() < end:
        if path.stat().st_size > before:
            return True
        time.sleep(0.01)
    return False


@full
@pytest.mark.parametrize("end", ["stop", "the runner is killed", "the daemon is killed"])
def test_what_starts_another_and_ends_all_the_time(make, end):
    daemon = make()
    (daemon.cwd / "comet.py").write_text(COMET)
    runner = int(bash(daemon, f"env -i {PYTHON} comet.py > /dev/null 2>&1; until [ -s trail ]; do sleep 0.02; done; echo $PPID"))
    trail = daemon.cwd / "trail"
    assert goes_on(trail)
    if end == "stop":
        daemon.stop_session("s")
    elif end == "the runner is killed":
        os.kill(runner, 9)
    else:
        daemon.process.kill()
    eventually(lambda: not proc.alive(runner), "the runner has ended")
    eventually(lambda: not goes_on(trail, 0.3), "it has ended as well", timeout=20)
    assert not goes_on(trail)


@full
def test_the_runner_by_the_numbers_of_its_threads(make):
    """Programs may end the process that started them, by the thread that did, and gain nothing by it: not even with another session's mark."""
    daemon = make()
    command = ("env -i NATS_PI_BRIDGE_SESSION=other setsid sleep 600 > /dev/null 2>&1 & echo $! > left; echo $PPID > runner; "
               "for task in /proc/$PPID/task/*; do kill -9 ${task##*/}; done 2> /dev/null; sleep 600")
    daemon.model.script([ToolCall("bash", {"command": command})], "done")
    assert daemon.prompt("s", "go").text() == "done"
    assert "was killed" in daemon.model.requests[-1].tool_results[-1][0]
    left, runner = (int((daemon.cwd / name).read_text()) for name in ("left", "runner"))
    eventually(lambda: not proc.alive(left) and not proc.alive(runner), "both have ended")
    assert bash(daemon, "echo again") == "again\n"


@full
def test_the_guard(make):
    """The process before the runner is the daemon's child, and reached by no signal."""
    daemon = make()
    text = bash(daemon, "guard=$(awk '/^PPid/ { print $2 }' /proc/$PPID/status); echo $guard; kill -9 $guard 2>&1; kill -9 $(ls /proc/$guard/task) 2>&1; "
                        "kill -9 $PPID 2>&1; kill -STOP $PPID 2>&1; true")
    guard = int(text.split()[0])
    assert text.count("not permitted") == 4 and proc.alive(guard)
    assert f"PPid:\t{daemon.pid}\n" in Path(f"/proc/{guard}/status").read_text()


def test_programs_of_earlier_calls_can_be_ended(make):
    """As everybody does with a server in the background, by its number and by its name."""
    daemon = make()
    bash(daemon, "sleep 600 > /dev/null 2>&1 & echo $! > first; exec -a escape-second sleep 600 > /dev/null 2>&1 & echo $! > second")
    first, second = (int((daemon.cwd / name).read_text()) for name in ("first", "second"))
    assert proc.alive(first) and proc.alive(second)
    assert bash(daemon, "kill $(cat first) && pkill -f escape-secon[d] && echo sent") == "sent\n"
    eventually(lambda: not proc.alive(first) and not proc.alive(second), "both have ended")


@full
def test_signals_by_other_ways(make):
    """To everybody, by a descriptor's owner, by a process's descriptor, from a timer, queued, to threads."""
    daemon = make()
    (daemon.cwd / "probe.py").write_text(f"""
import ctypes, fcntl, os, signal, socket
c = ctypes.CDLL(None, use_errno=True)
for pid in ({daemon.pid}, os.getppid()):
    fd = os.pidfd_open(pid)
    for call in (lambda: signal.pidfd_send_signal(fd, 9), lambda: os.kill(pid, 9), lambda: os.killpg(pid, 9)):
        try:
            call()
            print("sent")
        except (PermissionError, ProcessLookupError):
            pass
    for call in ((129, pid, 9, ctypes.create_string_buffer(128)), (234, pid, pid, 9), (200, pid, 9)) if os.uname().machine == "x86_64" else ():
        if c.syscall(*call) == 0:
            print("sent", call[0])
    a, b = socket.socketpair()
    try:
        fcntl.fcntl(a, fcntl.F_SETOWN, pid)
        fcntl.fcntl(a, 10, 9)
        fcntl.fcntl(a, fcntl.F_SETFL, os.O_ASYNC)
        b.send(b"x")
    except PermissionError:
        pass
signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.kill(-1, signal.SIGTERM)
print("over", flush=True)
""")
    # Not in a shell of its own, so that the parent is the runner.
    text = bash(daemon, f"exec {PYTHON} probe.py 2>&1")
    assert text == "over\n", text
    assert daemon.running()
    assert bash(daemon, "echo again") == "again\n"
