"""Kernels whose Landlock does not confine signals: namespaces see to that, where there are some. The fault build plays such a kernel."""

import os
import subprocess

import pytest

from support import proc
from support.escapes import ABI, FAULTY, PYTHON, bash, make_daemon, python  # noqa: F401
from support.model_script import ToolCall
from support.waiting import eventually

pytestmark = [
    pytest.mark.any_server,
    pytest.mark.skipif(not FAULTY, reason="no fault build (NATS_PI_BRIDGE_FAULTY)"),
    pytest.mark.skipif(ABI < 2, reason=f"Landlock's ABI is {ABI}, and one of 2 is played"),
]


def namespaces():
    """Whether there are namespaces of processes for the tests' user, and an ordinary one."""
    unshare = ["unshare", "--user", "--pid", "--mount-proc", "--fork", "true"]
    return subprocess.run(unshare, capture_output=True).returncode == 0


NAMESPACES = namespaces()


@pytest.fixture(params=[1, 2, 5])
def old(make, request):
    """A daemon, and the ABI that it finds."""
    level = "full" if NAMESPACES else "files"
    return make(environment={"NATS_PI_BRIDGE_LANDLOCK": str(request.param)}, level=level), request.param


def test_signals_and_processes_of_others(old):
    daemon, _ = old
    if not NAMESPACES:
        pytest.skip("there are no namespaces of processes")
    text = bash(daemon, f"kill -9 {daemon.pid} 2>/dev/null && echo sent; ls -d /proc/{daemon.pid} 2>/dev/null; ls -d /proc/[0-9]* | wc -l; echo $PPID; cat /proc/1/comm > /dev/null && echo own")
    processes, runner, own = text.split()
    assert int(processes) < 10 and (runner, own) == ("1", "own")
    assert daemon.running()


@pytest.mark.parametrize("end", ["stop", "the first process is killed", "the daemon is killed"])
def test_nothing_outlives_its_session(old, end):
    daemon, _ = old
    bash(daemon, "(env -i setsid sleep 600 > /dev/null 2>&1 &); env -i NATS_PI_BRIDGE_SESSION=other setsid sleep 600 > /dev/null 2>&1 &")
    left = [process for process in proc.descendants(daemon.pid) if proc.name(process) == "sleep"]
    assert len(left) == 2
    if end == "stop":
        daemon.stop_session("s")
    elif end == "the daemon is killed":
        daemon.process.kill()
    else:
        daemon.model.script([ToolCall("bash", {"command": "kill -9 $PPID; for task in /proc/$PPID/task/*; do kill -9 ${task##*/}; done; sleep 600"})], "done")
        daemon.prompt("s", "go")
        if NAMESPACES:
            # Nobody in a namespace can kill its first process; whoever does it from outside ends all of it.
            (guard,) = proc.children(daemon.pid)
            (first,) = proc.children(guard)
            os.kill(first, 9)
    eventually(lambda: not any(proc.alive(process) for process in left), "nothing is left", timeout=20)


def test_files_are_not_cut_outside(old):
    """Landlock's first two ABIs let everybody cut files."""
    daemon, _ = old
    there = daemon.home / "out/there"
    text = python(daemon, f"""
import os
for call in (lambda: os.truncate({str(there)!r}, 0), lambda: os.open({str(there)!r}, os.O_RDONLY | os.O_TRUNC), lambda: os.open({str(there)!r}, os.O_WRONLY | os.O_TRUNC)):
    try:
        call()
        print("done")
    except PermissionError:
        print("refused")
open("own", "w").write("long")
open("own", "w").write("x")
os.ftruncate(os.open("own", os.O_RDWR), 0)
print(os.path.getsize("own"))
""")
    assert text == "refused\n" * 3 + "0\n" and there.read_text() == "as it was"


def test_ordinary_work(old):
    daemon, _ = old
    assert bash(daemon, "git init -q a && cd a && git -c user.name=n -c user.email=e commit -q --allow-empty -m one && git log --format=%s") == "one\n"
    assert bash(daemon, f"{PYTHON} -c 'import multiprocessing as m; p = m.Pool(2); print(p.map(abs, [-1, -2]))'") == "[1, 2]\n"
    bash(daemon, f"{PYTHON} -u -m http.server 0 --bind 127.0.0.1 > out 2>&1 & echo $! > pid; until grep -q http out; do sleep 0.05; done")
    assert bash(daemon, "curl -s -o /dev/null -w '%{http_code} ' $(grep -o 'http://[^ /)]*' out)/; kill $(cat pid); ps -o pid= $$ > /dev/null && echo seen") == "200 seen\n"
    assert bash(daemon, "echo x > f && mv f g && ln g h && cat h; stat -c %u g") == f"x\n{os.stat(f'/proc/{daemon.pid}').st_uid}\n"


def test_a_network_of_its_own_as_well(make):
    daemon = make(environment={"NATS_PI_BRIDGE_LANDLOCK": "2"}, level="full" if NAMESPACES else "files", network="off")
    assert bash(daemon, f"{PYTHON} -c 'import socket; print(sorted(n for _, n in socket.if_nameindex()))'") == "['lo']\n" or not daemon.inspect("s")["sandbox"]["loopback"]


@pytest.mark.parametrize(("abi", "settings", "level"), [("0", {}, "net"), ("2", {"unixSockets": True}, "files")])
def test_levels_that_are_not_reached(make, abi, settings, level):
    """Nothing is said that does not hold: with sockets of others allowed those without a path are reached."""
    daemon = make(environment={"NATS_PI_BRIDGE_LANDLOCK": abi}, level=level, **settings)
    assert bash(daemon, "echo works") == "works\n"
    assert f"reaches level {level} only" in daemon.log_text()
