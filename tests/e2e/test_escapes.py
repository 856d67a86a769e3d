"""Ways out of the sandbox, each tried through the daemon: as the tests' own user and, where that is root, as an ordinary one as well.

Each row is tried where the kernel has what it is about; what is skipped says why. The level that was reached is printed with each.
"""

import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from support import proc
from support.daemon import BINARY, Daemon
from support.escapes import ABI, FOR_ALL, LEVEL, PYTHON, AsUser, bash, files, full, make_daemon, python, x86  # noqa: F401
from support.model_script import ToolCall
from support.waiting import eventually

pytestmark = pytest.mark.any_server


def user_of(daemon):
    return int(proc.status(daemon.pid)["Uid"].split()[0])


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


def test_datagrams_from_a_pair_of_sockets(make, tmp_path):
    """One of a pair could send to any socket with a path, if it were no stream."""
    import socket

    path = str(Path(tempfile.mkdtemp(prefix="escape-")) / "s")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(path)
        os.chmod(path, 0o777)
        os.chmod(os.path.dirname(path), 0o755)
        code = f"""
import socket
for kind in (socket.SOCK_DGRAM, socket.SOCK_RAW, socket.SOCK_SEQPACKET, socket.SOCK_STREAM):
    for flags in (0, socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC):
        try:
            a, b = socket.socketpair(socket.AF_UNIX, kind | flags)
            a.send(b"x")
            a.sendto(b"x", {path!r})
            print(b.recv(1))
        except OSError as e:
            print(e.errno)
"""
        text = python(make(), code)
        # In a pair of the third kind a message goes to the other end, whatever address it has; the fourth takes no address.
        assert text.split() == ["1"] * 4 + ["b'x'"] * 2 + ["106"] * 2
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.recv(1)
    shutil.rmtree(os.path.dirname(path))


@files
def test_keys_of_the_daemon_wherever_they_are(make):
    """What it reads or keeps itself, by its settings, and the keys of providers."""
    daemon = make(stateDir="~/kept/state", budgetDir="~/kept/budgets", tlsKey="~/keys/tls.pem")
    for name in ("keys/tls.pem", "kept/state/x", "kept/budgets/x", "keys/other"):
        (daemon.home / name).parent.mkdir(parents=True, exist_ok=True)
        (daemon.home / name).write_text("for all" if name == "keys/other" else "s3cret")
    text = bash(daemon, "for f in ~/keys/tls.pem ~/kept/state/x ~/kept/budgets/x ~/.pi/agent/models.json ~/.pi/agent/auth.json ~/.pi-exec/config.json; do cat $f 2>&1; done; cat ~/keys/other")
    assert text.count("denied") + text.count("No such file") == 6 and "s3cret" not in text and "apiKey" not in text and text.endswith("for all")


def test_files_that_the_daemon_was_started_with(make, monkeypatch):
    """What a script had open when it started the daemon is not open in what tools start."""
    import fcntl

    # Beyond the numbers that the tests' own files have.
    kept = fcntl.fcntl(os.open(__file__, os.O_RDONLY), fcntl.F_DUPFD, 500)
    os.set_inheritable(kept, True)
    popen = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda *args, **options: popen(*args, **{**options, "close_fds": False}))
    for profile in ("workspace", "off"):
        daemon = make(profile)
        assert os.path.exists(f"/proc/{daemon.pid}/fd/{kept}")
        assert bash(daemon, f"ls /proc/self/fd | grep -c '^{kept}$'").startswith("0\n")
        daemon.close()
    os.close(kept)


@files
def test_a_working_folder_that_becomes_a_link(make):
    """Another session may put a link in its place, before this one's tools are confined."""
    daemon = make()
    inner = daemon.cwd / "inner"
    inner.mkdir()
    os.chown(inner, user_of(daemon), -1)
    daemon.model.script("hello")
    daemon.session("inner", "x", cwd=str(inner)).text()
    bash(daemon, f"mv inner before && ln -s {daemon.home / 'out'} inner")
    daemon.model.script([ToolCall("bash", {"command": "echo x > there; echo x > f"})], "done")
    assert daemon.prompt("inner", "go").text() == "done"
    assert "a link leads to the working folder" in daemon.model.requests[-1].tool_results[-1][0]
    assert untouched(daemon)


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
@pytest.mark.parametrize("target", ["daemon", "runner", "another program of the user"])
def test_ptrace(make, target):
    daemon = make()
    other = subprocess.Popen(["sleep", "600"], env={"KEY": "s3cret"}, user=user_of(daemon))
    pid = {"daemon": daemon.pid, "runner": "os.getppid()"}.get(target, other.pid)
    code = f"""
import ctypes, os
c = ctypes.CDLL(None, use_errno=True)
pid = {pid}
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
    other.kill()
    other.wait()
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
    assert user.split()[0] == str(user_of(daemon))
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


def test_what_is_typed_into_a_terminal(make):
    """Characters cannot be put into one, whatever else there is in the call's number."""
    text = python(make(), """
import ctypes, os
c = ctypes.CDLL(None, use_errno=True)
_, terminal = os.openpty()
for request in (0x5412, 0x541c, 0x100005412):
    number = {"x86_64": 16, "aarch64": 29}[os.uname().machine]
    print(c.syscall(number, terminal, ctypes.c_ulong(request), b"x"), ctypes.get_errno())
""")
    assert text == "-1 1\n" * 3


@x86
@pytest.mark.skipif(not shutil.which("gcc"), reason="there is no gcc")
def test_calls_of_32_bits(make):
    """Their numbers mean something else, so that none of them is made: the program ends."""
    daemon = make()
    (daemon.cwd / "old.c").write_text("""
#include <stdio.h>
int main(void) { long result; __asm__ volatile("int $0x80" : "=a"(result) : "a"(20) : "memory"); printf("made %ld\\n", result); return 0; }
""")
    text = bash(daemon, "gcc -o old old.c && ./old; echo $?")
    assert "made" not in text and text.split()[-1] in ("139", "159"), text


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
    daemon = make(toolMemory="200M", toolFileSize="1M")
    text = python(daemon, "try:\n    x = bytearray(400 << 20); print('taken')\nexcept MemoryError:\n    print('refused')\n")
    assert text == "refused\n"
    bash(daemon, "(trap '' XFSZ; head -c 5000000 /dev/zero > big) 2>/dev/null; true")
    assert (daemon.cwd / "big").stat().st_size == 1 << 20
    # The tools' own files, too.
    daemon.model.script([ToolCall("write", {"path": "own", "content": "x" * (1200 << 10)})], "done")
    daemon.prompt("s", "go").text(45)
    assert "file too large" in daemon.model.requests[-1].tool_results[-1][0]
    assert not (daemon.cwd / "own").exists() or (daemon.cwd / "own").stat().st_size <= 1 << 20
    assert daemon.running() and daemon.session_ids() == ["s"]


# The daemon's own doors.


@pytest.mark.parametrize("profile", ["off", "workspace"])
def test_the_side_channel_as_each_user(make, profile):
    daemon = make(profile, unixSockets=True)
    code = f"import socket\ns = socket.socket(socket.AF_UNIX); s.connect({str(daemon.socket)!r}); print(s.makefile().readline())\n"
    assert "programs that an agent has started" in python(daemon, code)


HIDDEN = {
    "no files to look at": "ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)\ns = socket.create_connection(('127.0.0.1', PORT))\n",
    "a socket that nobody has": """
s = socket.socket()
a, b = socket.socketpair()
# It waits in the queue of another socket, and comes back when it was looked for.
socket.send_fds(a, [b"x"], [s.fileno()])
s.connect(("127.0.0.1", PORT))
s.close()
time.sleep(1)
s = socket.socket(fileno=socket.recv_fds(b, 1, 1)[1][0])
""",
}


@pytest.mark.parametrize("user", ["own", "ordinary"])
@pytest.mark.parametrize("way", HIDDEN)
@pytest.mark.parametrize("profile", ["off", "workspace"])
def test_the_broker_is_not_reached_by_hiding(new_daemon, own_bus, model, user, way, profile):
    """What nobody may look at is not taken for somebody else's."""
    if user == "ordinary" and (os.geteuid() != 0 or not FOR_ALL):
        pytest.skip("it takes root to start an ordinary user's daemon, and a Python that such a user can start")
    folder = Path(tempfile.mkdtemp(prefix="escape-"))
    folder.chmod(0o755)
    # Daemons of the same user let each other in, and are known by their names.
    binary = folder / f"daemon-{os.getpid()}"
    shutil.copy(BINARY, binary)
    daemon = (AsUser if user == "ordinary" else Daemon)(folder / "d", None, None, model.url, binary=str(binary))
    try:
        import socket

        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        daemon.config["sandbox"] = profile
        daemon.spawn("--listen", f"127.0.0.1:{port}")
        daemon.wait_log("intake registered")
        daemon.bus = own_bus(f"nats://127.0.0.1:{port}")
        daemon.model = model
        model.script("hello")
        daemon.session("s", "x").text()
        code = f"import ctypes, socket, time\nPORT = {port}\n{HIDDEN[way]}" + """
try:
    s.sendall(b'CONNECT {"verbose":true}\\r\\nPING\\r\\n')
except BrokenPipeError:
    pass
s.settimeout(5)
text = b""
while b"-ERR" not in text and b"PONG" not in text:
    more = s.recv(4096)
    if not more:
        break
    text += more
print("PONG" if b"PONG" in text else text[-200:])
"""
        text = python(daemon, code)
        assert "Authorization Violation" in text and "PONG" not in text, text
        # Others are served meanwhile and afterwards.
        assert daemon.session_ids() == ["s"]
    finally:
        daemon.close()
        shutil.rmtree(folder)


def test_what_is_skipped_is_told(pytestconfig):
    """The levels that this machine has; pytest counts what is skipped, with the reasons (`-ra`)."""
    print(json.dumps({"landlock": ABI, "level": LEVEL, "root": os.geteuid() == 0, "kernel": os.uname().release}))
    assert "a" in str(pytestconfig.getoption("reportchars"))
