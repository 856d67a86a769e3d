"""Ways out of the sandbox, each tried through the daemon: as the tests' own user and, where that is root, as an ordinary one as well.

Each row is tried where the kernel has what it is about; what is skipped says why. The level that was reached is printed with each.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from support import proc
from support.daemon import BINARY, Daemon
from support.model_script import ToolCall
from support.proc import landlock_abi
from support.waiting import eventually

pytestmark = pytest.mark.any_server
ORDINARY = 65534


def is_for_all(program):
    """Whether an ordinary user can start it: that of the tests may be in root's own folder."""
    return all(folder.stat().st_mode & 0o001 for folder in (Path(program), *Path(program).parents))


PYTHONS = [os.path.realpath(sys.executable), os.path.realpath("/usr/bin/python3")]
FOR_ALL = [found for found in PYTHONS if os.path.exists(found) and is_for_all(found)]
PYTHON = (FOR_ALL or PYTHONS)[0]
ABI = landlock_abi()
LEVEL = "full" if ABI >= 6 else "files" if ABI >= 1 else "net"
full = pytest.mark.skipif(ABI < 6, reason=f"Landlock's ABI is {ABI}, signals and abstract sockets need 6")
files = pytest.mark.skipif(ABI < 1, reason="the kernel has no Landlock")
x86 = pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers of the calls are those of x86-64")


class AsUser(Daemon):
    """A daemon of an ordinary user, whom no folder of root's lets in."""

    def spawn(self, *arguments):
        for root, folders, names in os.walk(self.home.parent):
            for name in [root, *(os.path.join(root, name) for name in folders + names)]:
                os.chown(name, ORDINARY, ORDINARY, follow_symlinks=False)
        os.chown(self.bridge_root, ORDINARY, ORDINARY)
        popen = subprocess.Popen
        try:
            subprocess.Popen = lambda *args, **options: popen(*args, **options, user=ORDINARY, group=ORDINARY, extra_groups=[])
            return super().spawn(*arguments)
        finally:
            subprocess.Popen = popen


@pytest.fixture(params=["own", pytest.param("ordinary", marks=pytest.mark.skipif(os.geteuid() != 0, reason="the tests are no root's"))])
def make(request, new_daemon, model, bus, nats_server, record_property):
    made = []

    def start(profile="workspace", **config):
        if request.param == "own":
            daemon = new_daemon()
        else:
            if not FOR_ALL:
                pytest.skip("there is no Python that an ordinary user can start")
            folder = Path(tempfile.mkdtemp(prefix="escape-"))
            folder.chmod(0o755)
            shutil.copy(BINARY, folder / "daemon")
            daemon = AsUser(folder / "d", nats_server.url, bus, model.url, binary=str(folder / "daemon"))
            made.append((daemon, folder))
        daemon.config |= {"sandbox": profile, **config}
        daemon.model = model
        (daemon.home / ".ssh").mkdir()
        (daemon.home / ".ssh/id").write_text("s3cret")
        (daemon.home / "out").mkdir()
        (daemon.home / "out/there").write_text("as it was")
        daemon.start()
        model.script("hello")
        daemon.session("s", "x").text()
        level = daemon.inspect("s")["sandbox"]["level"]
        record_property("level", level)
        print(f"level {level}, user {request.param}")
        assert level == (LEVEL if profile != "off" else "none")
        return daemon

    yield start
    for daemon, folder in made:
        daemon.close()
        assert "panicked" not in daemon.log_text()
        shutil.rmtree(folder)


def bash(daemon, command, timeout=30):
    daemon.model.script([ToolCall("bash", {"command": command, "timeout": timeout})], "done")
    assert daemon.prompt("s", "go").text(timeout + 15) == "done"
    return daemon.model.requests[-1].tool_results[-1][0]


def python(daemon, code):
    (daemon.cwd / "probe.py").write_text(code)
    return bash(daemon, f"{PYTHON} probe.py 2>&1")


def untouched(daemon):
    out = daemon.home / "out"
    return [path.name for path in out.iterdir()] == ["there"] and (out / "there").read_text() == "as it was"


# Files.


@files
def test_files(make):
    """Every way in one daemon, since a way that works shows at the end."""
    daemon = make()
    out = daemon.home / "out"
    git = shutil.which("git") is not None
    ways = [
        f"ln -s {out} link && echo x > link/f", f"ln {out}/there hard && echo x > hard", f"echo x > f && mv f {out}/f", f"mv {out}/there .",
        f"{PYTHON} -c \"import os; os.rename('{out}', 'moved')\"", f"mkdir d && {PYTHON} -c \"import os; os.rename('d', '{out}/d')\"",
        f"cd {out} && echo x > there", f"echo x > /proc/self/root{out}/there", f"exec 3<>{out}/there && echo x >&3", f"truncate -s 0 {out}/there",
        f"(cd {out}; rm there)", f"dd if=/dev/null of={out}/there", f"cp /etc/hostname {out}/f",
        f"{PYTHON} -c \"import os; fd = os.open('{out}', os.O_PATH); os.close(os.open('f', os.O_CREAT | os.O_WRONLY, dir_fd=fd))\"",
    ]
    if git:
        ways += [f"git init -q --separate-git-dir {out}/g .", f"mkdir w && echo 'gitdir: {out}/g' > w/.git && cd w && git init -q",
                 f"git init -q r && cd r && git -c user.name=n -c user.email=e commit -q --allow-empty -m x && git worktree add -q {out}/w",
                 f"GIT_DIR={out}/g git init -q"]
    bash(daemon, "; ".join(f"({way}) >/dev/null 2>&1" for way in ways) + "; true")
    assert untouched(daemon)
    reads = ["cat {0}", "ln {0} h; cat h", "ln -s {0} l; cat l", "cat /proc/self/root{0}", "cp -r $(dirname {0}) c; cat c/*", "tar c {0}", "mv {0} m; cat m",
             PYTHON + " -c \"import os; fd = os.open('/', os.O_PATH); print(os.read(os.open('{0}'[1:], os.O_RDONLY, dir_fd=fd), 99))\""]
    text = bash(daemon, "; ".join(f"({read.format(daemon.home / '.ssh/id')}) 2>&1" for read in reads) + "; true")
    assert "s3cret" not in text and (daemon.home / ".ssh/id").read_text() == "s3cret"


@files
def test_a_file_that_is_handed_over(make, tmp_path):
    """SCM_RIGHTS: nobody outside can be talked to, so that nobody hands anything in; within a session it works."""
    code = """
import array, os, socket
a, b = socket.socketpair()
fd = os.open("/etc/hostname", os.O_RDONLY)
socket.send_fds(a, [b"x"], [fd])
_, fds, _, _ = socket.recv_fds(b, 1, 1)
print("handed", len(fds))
for name in ("\\0escape", "/tmp/escape"):
    try:
        s = socket.socket(socket.AF_UNIX); s.connect(name); print("connected")
    except OSError as e:
        print("refused", e.errno)
"""
    text = python(make(), code)
    assert text == "handed 1\nrefused 1\nrefused 1\n", text


@full
def test_abstract_sockets(make):
    """Also where the operator allows sockets with a path: these have none."""
    import socket

    name = f"\0escape-{os.getpid()}-{time.monotonic_ns()}"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(name)
        server.listen()
        code = f"import socket\ntry:\n    s = socket.socket(socket.AF_UNIX); s.connect({name!r}); print('connected')\nexcept OSError as e:\n    print('refused', e.errno)\n"
        assert python(make(unixSockets=True), code) == "refused 1\n"


# Other processes.


@files
@pytest.mark.parametrize("target", ["daemon", "runner"])
def test_ptrace(make, target):
    daemon = make()
    code = f"""
import ctypes, os
c = ctypes.CDLL(None, use_errno=True)
pid = {daemon.pid if target == 'daemon' else 'os.getppid()'}
print("attach", c.ptrace(16, pid, 0, 0), "seize", c.ptrace(0x4206, pid, 0, 0))
buffer = ctypes.create_string_buffer(64)
class V(ctypes.Structure):
    _fields_ = [("p", ctypes.c_void_p), ("n", ctypes.c_size_t)]
local, remote = V(ctypes.addressof(buffer), 64), V(0x400000, 64)
print("vm", c.process_vm_readv(pid, ctypes.byref(local), 1, ctypes.byref(remote), 1, 0))
for name in ("environ", "mem", "maps", "auxv"):
    try:
        open(f"/proc/{{pid}}/{{name}}", "rb").read(1); print(name, "read")
    except OSError as e:
        print(name, "refused")
"""
    (daemon.cwd / "probe.py").write_text(code)
    # Not in a shell of its own, so that the parent is the runner.
    text = bash(daemon, f"exec {PYTHON} probe.py 2>&1")
    assert text == "attach -1 seize -1\nvm -1\n" + "".join(f"{name} refused\n" for name in ("environ", "mem", "maps", "auxv")), text


@full
def test_signals(make):
    daemon = make()
    text = bash(daemon, f"for p in {daemon.pid} $PPID; do for s in KILL STOP TERM USR1; do kill -$s $p 2>/dev/null && echo sent $s $p; done; done; "
                        f"(setsid kill -9 {daemon.pid} 2>/dev/null && echo sent); echo over")
    assert text == "over\n" and daemon.running()


def test_limits_of_the_daemon(make):
    """With a limit of time or of files the daemon could be ended without a signal. A program's own limits are its own."""
    daemon = make()
    limits = Path(f"/proc/{daemon.pid}/limits").read_text()
    text = python(daemon, f"""
import os, resource
for pid in ({daemon.pid}, os.getppid()):
    for limit in (resource.RLIMIT_CPU, resource.RLIMIT_NOFILE):
        try:
            resource.prlimit(pid, limit, (1, 1))
            print("changed")
        except PermissionError:
            print("refused")
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
print(resource.getrlimit(resource.RLIMIT_NOFILE))
""")
    assert text == "refused\n" * 4 + "(64, 64)\n"
    assert Path(f"/proc/{daemon.pid}/limits").read_text() == limits


def test_priority_of_the_daemon(make):
    """A daemon that gets no processor answers nobody. A program's own priority is its own."""
    daemon = make()

    def scheduled():
        fields = Path(f"/proc/{daemon.pid}/stat").read_text().rsplit(")", 1)[1].split()
        # Its priority, its niceness and its policy.
        return fields[15], fields[16], fields[38]

    before = scheduled()
    text = python(daemon, f"""
import ctypes, os
def ioprio_set(which, who):
    # System call 251 on x86-64 and 30 on aarch64; class 3 is what runs when nobody else does.
    if ctypes.CDLL(None, use_errno=True).syscall({{"x86_64": 251, "aarch64": 30}}[os.uname().machine], which, who, 3 << 13):
        raise OSError(ctypes.get_errno(), "ioprio_set")
def refused(call):
    try:
        call()
        print("changed")
    except PermissionError:
        print("refused")
for pid in ({daemon.pid}, os.getppid()):
    refused(lambda: os.setpriority(os.PRIO_PROCESS, pid, 19))
    refused(lambda: os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0)))
    refused(lambda: os.sched_setparam(pid, os.sched_param(0)))
    refused(lambda: ioprio_set(1, pid))
refused(lambda: os.setpriority(os.PRIO_USER, 0, 19))
refused(lambda: ioprio_set(3, 0))
os.setpriority(os.PRIO_PROCESS, 0, 5)
os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
ioprio_set(1, 0)
print(os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0) == os.SCHED_BATCH)
""")
    assert text == "refused\n" * 10 + "5 True\n"
    assert scheduled() == before


def test_no_network_as_each_user(make):
    """The kernel's namespaces, of users, too, where that is what it takes; no sockets of the network where there are none."""
    daemon = make(network="off")
    text = python(daemon, """
import os, socket
print(os.geteuid(), os.getegid())
try:
    s = socket.create_server(("127.0.0.1", 0))
    print("loopback", socket.create_connection(s.getsockname(), 1).send(b"x"))
except PermissionError:
    print("none")
print(sorted(name for _, name in socket.if_nameindex()))
""")
    user, network, devices = text.splitlines()
    uid = Path(f"/proc/{daemon.pid}").stat().st_uid
    assert user.split()[0] == str(uid)
    has_loopback = daemon.inspect("s")["sandbox"]["loopback"]
    assert network == ("loopback 1" if has_loopback else "none")
    if has_loopback:
        assert devices == "['lo']"
    print("loopback" if has_loopback else "no namespaces")


@x86
def test_system_calls(make):
    """Calls that get around the rest: each is refused (EPERM, 1) or not there (ENOSYS, 38), also in its x32 form."""
    calls = {"io_uring_setup": (425, 8, 0), "io_uring_enter": (426, 0, 0, 0, 0, 0), "io_uring_register": (427, 0, 0, 0, 0), "bpf": (321, 0, 0, 0),
             "unshare user": (272, 0x10000000), "unshare user, mount": (272, 0x10020000), "clone3": (435, 0, 0), "setns": (308, 0, 0),
             "mount": (165, 0, 0, 0, 0, 0), "open_by_handle_at": (304, 0, 0, 0), "pidfd_getfd": (438, 0, 0, 0), "kexec_load": (246, 0, 0, 0, 0),
             "clone user": (56, 0x10000000 | 17, 0, 0, 0, 0)}
    code = f"""
import ctypes, os
c = ctypes.CDLL(None, use_errno=True)
for name, call in {calls!r}.items():
    for form, number in ((name, call[0]), ("x32 " + name, 0x40000000 + call[0])):
        result = c.syscall(number, *call[1:])
        if result == 0 and "clone" in name:
            os._exit(0)
        print(form, result, ctypes.get_errno(), sep=":", flush=True)
"""
    daemon = make()
    lines = python(daemon, code).splitlines()
    assert len(lines) == 2 * len(calls)
    for line in lines:
        _, result, error = line.split(":")
        assert result == "-1" and error in ("1", "38"), line


@pytest.mark.parametrize("end", ["stop", "its child kills the runner"])
def test_double_forks(make, end):
    daemon = make()
    forks = "import os, sys, time\nfor n in range(3):\n    if os.fork():\n        os._exit(0)\n    os.setsid()\nopen('deep', 'w').write(str(os.getpid()))\nos.execve('/bin/sleep', ['sleep', '600'], {})\n"
    (daemon.cwd / "fork.py").write_text(forks)
    runner = int(bash(daemon, f"env -i {PYTHON} fork.py > /dev/null 2>&1; until [ -s deep ]; do sleep 0.02; done; echo $PPID"))
    deep = int((daemon.cwd / "deep").read_text())
    assert proc.alive(deep)
    if end == "stop":
        daemon.stop_session("s")
    elif ABI >= 6:
        # Whether it may be killed at all is a matter of the level; whoever kills it from outside ends all the same.
        assert "over" in bash(daemon, "kill -9 $PPID 2>/dev/null; echo over")
        assert proc.alive(runner)
        os.kill(runner, 9)
    else:
        bash(daemon, "kill -9 $PPID; sleep 600")
    eventually(lambda: not proc.alive(deep) and not proc.alive(runner), "nothing is left", timeout=10)


# What takes all there is of something. The bounds are far below what would hurt the machine.


def test_a_fork_bomb(make):
    """Bounded by `toolProcesses`, which counts the user's, root's excepted: as root a bound of its own ends it."""
    limit = 200
    daemon = make(toolProcesses=limit)
    bomb = f"""
import os, time
made = 0
for n in range({limit} if os.geteuid() else 60):
    try:
        if os.fork() == 0:
            os.setsid()
            os.execve("/bin/sleep", ["escape-bomb", "600"], {{}})
        made += 1
    except BlockingIOError:
        break
open("made", "w").write(str(made))
time.sleep(600)
"""
    (daemon.cwd / "bomb.py").write_text(bomb)
    daemon.model.script([ToolCall("bash", {"command": f"{PYTHON} bomb.py"})], "never")
    daemon.prompt("s", "go")
    made = daemon.cwd / "made"
    eventually(lambda: made.exists() and made.read_text(), "it has gone off")
    assert 10 < int(made.read_text()) <= limit
    answers = []
    for _ in range(10):
        begun = time.monotonic()
        daemon.list()
        answers.append(time.monotonic() - begun)
    # The bound is 50 ms; a machine that is busy with other tests has ten times that.
    assert sorted(answers)[5] < 0.5, answers
    assert daemon.bus.ask_json(f"{daemon.subject('s')}.abort", timeout=20) is not None

    def none_left():
        return not any(pid.isdigit() and in_folder(pid, daemon.cwd) for pid in os.listdir("/proc"))

    eventually(none_left, "nothing is left of it", timeout=10)


def in_folder(pid, folder):
    try:
        return os.readlink(f"/proc/{pid}/cwd") == str(folder) and proc.alive(int(pid)) and b"sleep" in Path(f"/proc/{pid}/comm").read_bytes()
    except OSError:
        return False


def test_memory_and_disk(make):
    daemon = make(toolMemory="200M", toolFileSize="4M")
    text = python(daemon, "try:\n    x = bytearray(400 << 20); print('taken')\nexcept MemoryError:\n    print('refused')\n")
    assert text == "refused\n"
    bash(daemon, "(trap '' XFSZ; head -c 20000000 /dev/zero > big) 2>/dev/null; true")
    assert (daemon.cwd / "big").stat().st_size == 4 << 20
    # The tools' own files, too.
    daemon.model.script([ToolCall("write", {"path": "own", "content": "x" * (5 << 20)})], "done")
    daemon.prompt("s", "go").text()
    assert not (daemon.cwd / "own").exists() or (daemon.cwd / "own").stat().st_size <= 4 << 20
    assert daemon.running() and daemon.session_ids() == ["s"]


# The daemon's own doors.


@pytest.mark.parametrize("profile", ["off", "workspace"])
def test_the_side_channel_as_each_user(make, profile):
    daemon = make(profile, unixSockets=True)
    code = f"import socket\ns = socket.socket(socket.AF_UNIX); s.connect({str(daemon.socket)!r}); print(s.makefile().readline())\n"
    assert "programs that an agent has started" in python(daemon, code)


def test_the_broker_is_not_reached_by_hiding(new_daemon, own_bus, model, tmp_path):
    """A process whose files nobody may look at is not taken for somebody else's: as an ordinary user, since root sees all."""
    if os.geteuid() != 0 or not FOR_ALL:
        pytest.skip("it takes root to start an ordinary user's daemon, and a Python that such a user can start")
    folder = Path(tempfile.mkdtemp(prefix="escape-"))
    folder.chmod(0o755)
    shutil.copy(BINARY, folder / "daemon")
    daemon = AsUser(folder / "d", None, None, model.url, binary=str(folder / "daemon"))
    try:
        import socket

        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        daemon.config["sandbox"] = "off"
        daemon.spawn("--listen", f"127.0.0.1:{port}")
        daemon.wait_log("intake registered")
        daemon.bus = own_bus(f"nats://127.0.0.1:{port}")
        daemon.model = model
        model.script("hello")
        daemon.session("s", "x").text()
        code = f"""
import ctypes, socket
ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)
s = socket.create_connection(("127.0.0.1", {port}))
s.sendall(b'CONNECT {{"verbose":true}}\\r\\nPING\\r\\n')
s.settimeout(5)
print(s.recv(4096)[-200:], s.recv(4096))
"""
        assert "programs that an agent has started may not connect" in python(daemon, code)
        # Others are served meanwhile and afterwards.
        assert daemon.session_ids() == ["s"]
    finally:
        daemon.close()
        shutil.rmtree(folder)


def test_what_is_skipped_is_told(pytestconfig):
    """The levels that this machine has; pytest counts what is skipped, with the reasons (`-ra`)."""
    print(json.dumps({"landlock": ABI, "level": LEVEL, "root": os.geteuid() == 0, "kernel": os.uname().release}))
    assert "a" in str(pytestconfig.getoption("reportchars"))
