"""What tools in a sandbox can reach, and what they cannot. Each test skips, with the reason, where the kernel lacks what it is about."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support import proc
from support.bridge import Bridge
from support.model_script import ToolCall
from support.proc import landlock_abi
from support.waiting import eventually

pytestmark = pytest.mark.any_server

# The interpreter itself: the tests' own environment may be in a folder that is closed because a home is in it.
PYTHON = os.path.realpath(sys.executable)
SECRETS = [".ssh/id", ".aws/credentials", ".gnupg/key", ".config/nats/context/c.json", ".netrc", ".pi/agent/auth.json", ".pi-exec/config.json"]


ABI = landlock_abi()
files = pytest.mark.skipif(ABI < 1, reason="the kernel has no Landlock")
full = pytest.mark.skipif(ABI < 6, reason=f"Landlock's ABI is {ABI}, signals need 6")


@pytest.fixture
def make(new_daemon, model):
    def start(*arguments, profile="workspace", **config):
        daemon = new_daemon()
        daemon.config |= {"sandbox": profile, **config}
        for name in SECRETS:
            path = daemon.home / name
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text('{"canary": "s3cret"}' if name.endswith(".json") else "s3cret")
        daemon.model = model
        return daemon.start(*arguments)

    return start


@pytest.fixture
def daemon(make):
    return make()


def call(daemon, name, session=None, **arguments):
    """What the model is told about one call."""
    daemon.model.script([ToolCall(name, arguments)], "done")
    stream = daemon.prompt(session, "go") if session else daemon.run("go", tools=["*"])
    assert stream.text() == "done"
    return daemon.model.requests[-1].tool_results[-1][0]


def bash(daemon, command, **more):
    return call(daemon, "bash", command=command, **more)


def python(daemon, code, **more):
    (daemon.cwd / "probe.py").write_text(code)
    return bash(daemon, f"{PYTHON} probe.py", **more)


# Files.


@files
@pytest.mark.parametrize("place", ["home", "parent", "/etc", "/usr", "/tmp", "/var/tmp", "agent"])
def test_nothing_is_written_outside(daemon, place):
    folder = {"home": daemon.home, "parent": daemon.cwd.parent, "agent": daemon.agent_dir}.get(place, Path(place))
    path = folder / f"escaped-{os.getpid()}"
    try:
        text = bash(daemon, f"echo x > {path} || echo refused")
        assert "refused" in text and not path.exists()
        text = call(daemon, "write", path=str(path), content="x")
        assert "EACCES" in text and not path.exists()
    finally:
        path.unlink(missing_ok=True)


def test_the_working_folder_is_written(daemon):
    assert bash(daemon, "echo x > a && mkdir b && mv a b/ && ln -s b/a l && ln b/a h && cat l && rm -r b") == "x\n"
    assert "Successfully" in call(daemon, "write", path="new/file", content="x")
    assert "Successfully" in call(daemon, "edit", path="new/file", edits=[{"oldText": "x", "newText": "y"}])
    assert (daemon.cwd / "new/file").read_text() == "y"


def test_a_private_folder_for_temporary_files(daemon):
    assert bash(daemon, "f=$(mktemp) && echo x > $f && cat $f") == "x\n"


@files
@pytest.mark.parametrize("name", SECRETS)
def test_secrets_are_not_read(daemon, name):
    path = daemon.home / name
    assert "s3cret" not in bash(daemon, f"cat {path} 2>&1; cat ~/{name}; true")
    assert "EACCES" in call(daemon, "read", path=str(path))
    (daemon.cwd / "link").symlink_to(path)
    assert "EACCES" in call(daemon, "read", path="link")
    assert "s3cret" not in bash(daemon, f"ln {path} hard; cat hard link; cp -r {path.parent} copy; cat copy/*; true")
    assert "s3cret" not in call(daemon, "grep", pattern="canary|s3cret", path=str(daemon.home))


def test_other_files_are_read(daemon):
    (daemon.home / "notes").write_text("for all")
    assert bash(daemon, "cat ~/notes") == "for all"
    assert "root" in call(daemon, "read", path="/etc/passwd")
    assert "notes" in bash(daemon, "ls ~")


@files
def test_writable_and_unreadable_of_the_operator(make, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "hidden").write_text("s3cret")
    daemon = make(writable=[str(tmp_path / "in")], unreadable=[str(tmp_path / "hidden")])
    assert bash(daemon, f"echo x > {tmp_path}/in/f && cat {tmp_path}/in/f") == "x\n"
    assert "s3cret" not in bash(daemon, f"cat {tmp_path}/hidden 2>&1")


@files
@pytest.mark.parametrize("command", [
    "ln -s {out} l && echo x > l/f",
    "echo x > f && mv f {out}/f",
    "echo x > f && ln f {out}/f",
    "cd {out} && echo x > f",
    "mkdir -p {out}/f",
    "mknod {out}/f p",
    "exec 3>{out}/f",
    "truncate -s 0 {out}/there",
    "rm {out}/there",
    "mv {out}/there .",
    "git init -q --separate-git-dir {out}/f .",
])
def test_ways_to_write_outside(daemon, command):
    out = daemon.home / "out"
    out.mkdir()
    (out / "there").write_text("as it was")
    bash(daemon, command.format(out=out))
    assert [path.name for path in out.iterdir()] == ["there"]
    assert (out / "there").read_text() == "as it was"


@files
def test_read_only(make):
    daemon = make(profile="read-only")
    assert "refused" in bash(daemon, "echo x > f || echo refused")
    assert "EACCES" in call(daemon, "write", path="f", content="x")
    assert list(daemon.cwd.iterdir()) == []
    assert bash(daemon, "f=$(mktemp) && echo x > $f && cat $f") == "x\n"


@files
@pytest.mark.parametrize("path", ["environ", "mem", "maps", "fd/0", "root", "cwd"])
def test_the_daemons_own_process(daemon, path):
    text = bash(daemon, f"cat /proc/{daemon.process.pid}/{path} 2>&1; ls /proc/{daemon.process.pid}/{path}/ 2>&1")
    assert "denied" in text or "not permitted" in text or "Not a directory" in text


def test_the_runner_has_no_keys(daemon):
    assert "sk-test" not in bash(daemon, "tr '\\0' '\\n' < /proc/$PPID/environ; env; true")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has capabilities to lose")
def test_roots_privileges_are_gone(daemon):
    text = bash(daemon, "grep -E 'Cap(Eff|Prm|Bnd|Amb|Inh)|NoNewPrivs' /proc/self/status")
    found = dict(line.split(":\t") for line in text.splitlines())
    assert found.pop("NoNewPrivs") == "1"
    assert found == dict.fromkeys(["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"], "0" * 16)


# Processes.

SURVIVORS = {
    "env -i setsid": "env -i setsid sleep 600 & echo $! > {0}",
    "its parent has ended": "(env -i setsid sh -c 'echo $$ > {0}; exec sleep 600' >/dev/null 2>&1 &)",
    "forked twice": "(env -i setsid sh -c '(setsid sh -c \"echo \\$\\$ > {0}; exec sleep 600\" &)' >/dev/null 2>&1 &)",
    "nohup": "nohup sleep 600 >/dev/null 2>&1 & echo $! > {0}",
}


@pytest.mark.parametrize("way", SURVIVORS)
@pytest.mark.parametrize("end", ["stop", "runner killed", "daemon killed", "shutdown"])
def test_nothing_outlives_its_session(daemon, way, end):
    daemon.model.script("hello")
    daemon.session("s", "x").text()
    file = daemon.cwd / "pid"
    bash(daemon, SURVIVORS[way].format(file) + f"; echo $PPID > {file}.runner", session="s")
    eventually(lambda: file.exists() and file.read_text().strip(), "it has begun")
    pid, runner = int(file.read_text()), int(Path(f"{file}.runner").read_text())
    assert proc.alive(pid), "what is in the background lives as long as its session"
    if end == "stop":
        daemon.stop_session("s")
    elif end == "runner killed":
        os.kill(runner, 9)
    elif end == "daemon killed":
        daemon.process.kill()
    else:
        daemon.process.terminate()
    eventually(lambda: not proc.alive(pid) and not proc.alive(runner), "both are gone", timeout=10)


@full
def test_signals_reach_neither_daemon_nor_runner(daemon):
    text = bash(daemon, f"kill -9 {daemon.process.pid} 2>&1; kill -9 $PPID 2>&1; kill -STOP $PPID 2>&1; echo alive")
    assert text.endswith("alive\n") and text.count("not permitted") == 3
    assert daemon.process.poll() is None


def test_a_runner_that_is_killed_is_told_and_replaced(daemon):
    daemon.model.script("hello")
    daemon.session("s", "x").text()
    daemon.model.script([ToolCall("bash", {"command": "echo $PPID > runner; sleep 60"})], "done")
    stream = daemon.prompt("s", "go")
    file = daemon.cwd / "runner"
    eventually(lambda: file.exists() and file.read_text().strip(), "the command runs")
    os.kill(int(file.read_text()), 9)
    assert stream.text() == "done"
    assert "was killed" in daemon.model.requests[-1].tool_results[-1][0]
    assert bash(daemon, "echo again", session="s") == "again\n"


def test_an_abort_ends_a_command_at_once(daemon):
    daemon.model.script("hello")
    daemon.session("s", "x").text()
    daemon.model.script([ToolCall("bash", {"command": "touch begun; env -i setsid sleep 600"})], "never")
    daemon.prompt("s", "go")
    eventually(lambda: (daemon.cwd / "begun").exists(), "it has begun")
    begun = time.monotonic()
    assert daemon.stop_session("s")["ok"]
    assert time.monotonic() - begun < 10


def test_one_runner_for_a_session(daemon):
    daemon.model.script("hello")
    daemon.session("s", "x").text()
    first = bash(daemon, "echo $PPID", session="s")
    assert bash(daemon, "echo $PPID", session="s") == first
    assert bash(daemon, "echo $PPID") != first


def test_no_terminal(daemon):
    assert "No such device" in bash(daemon, "exec 3</dev/tty 2>&1; true 2>&1") or "No such device" in bash(daemon, "(exec 3</dev/tty) 2>&1; true")


# System calls.


def test_unix_sockets(make, tmp_path):
    path = str(tmp_path / "s")
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen()
    code = f"import socket\na, b = socket.socketpair()\na.send(b'x')\nprint(b.recv(1))\ntry:\n    s = socket.socket(socket.AF_UNIX); s.connect({path!r}); print('connected')\nexcept OSError as e:\n    print('refused', e.errno)\n"
    text = python(make(), code)
    assert "b'x'" in text and "refused 1" in text and "connected" not in text
    server.close()


def test_unix_sockets_that_the_operator_allows(make, tmp_path):
    path = str(tmp_path / "s")
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen()
    assert "connected" in python(make(unixSockets=True), f"import socket\ns = socket.socket(socket.AF_UNIX); s.connect({path!r}); print('connected')\n")
    server.close()


def namespaces():
    """Whether the daemon may have a network of its own, as it finds that out: as root, or with a user namespace."""
    done = subprocess.run(["unshare", "--net", *([] if os.geteuid() == 0 else ["--user"]), "true"], capture_output=True)
    return done.returncode == 0


def test_no_network(make):
    """Nobody outside is reached, by no kind of socket; a loopback of the session's own is there where namespaces are."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_server(("::1", 0), family=socket.AF_INET6) as six:
        ports = [server.getsockname()[1], six.getsockname()[1]]
        code = f"""
import socket
def tell(what, f):
    try:
        print(what, "worked", f())
    except OSError as e:
        print(what, "failed", e.errno)
tell("tcp", lambda: socket.create_connection(("127.0.0.1", {ports[0]}), 1))
tell("tcp6", lambda: socket.create_connection(("::1", {ports[1]}), 1))
tell("udp", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("192.0.2.1", 53)))
tell("raw", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP))
tell("packet", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
tell("vsock", lambda: socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM))
tell("smc", lambda: socket.socket(43, socket.SOCK_STREAM))
tell("alg", lambda: socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET))
def own():
    s = socket.create_server(("127.0.0.1", 0))
    c = socket.create_connection(s.getsockname(), 1)
    return c.send(b"x")
tell("loopback", own)
"""
        daemon = make(network="off")
        found = dict(line.split(" ", 1) for line in python(daemon, code).splitlines())
        daemon.model.script("hello")
        daemon.session("s", "x").text()
        assert daemon.inspect("s")["sandbox"]["loopback"] == namespaces()
    assert {what: result.split()[0] for what, result in found.items()} == {
        **dict.fromkeys(["tcp", "tcp6", "udp", "raw", "packet", "vsock", "smc", "alg"], "failed"), "loopback": "worked" if namespaces() else "failed"}, found


def test_the_network_is_there_otherwise(daemon):
    with socket.create_server(("127.0.0.1", 0)) as server:
        text = python(daemon, f"import socket\nsocket.create_connection(('127.0.0.1', {server.getsockname()[1]})); print('connected')\n")
    assert text == "connected\n"


CALLS = {
    "io_uring_setup": (425, 8, 0),
    "bpf": (321, 0, 0, 0),
    "unshare(CLONE_NEWUSER)": (272, 0x10000000),
    "mount": (165, 0, 0, 0, 0, 0),
    "setns": (308, 0, 0),
    "keyctl": (250, 0, 0),
    "userfaultfd": (323, 0),
    "open_by_handle_at": (304, 0, 0, 0),
    "pidfd_getfd": (438, 0, 0, 0),
    "x32 bpf": (0x40000000 + 321, 0, 0, 0),
    "x32 socket(AF_UNIX)": (0x40000000 + 41, 1, 1, 0),
    "socket(AF_VSOCK)": (41, 40, 1, 0),
}


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers are those of x86-64")
def test_system_calls(daemon):
    code = f"import ctypes\nc = ctypes.CDLL(None, use_errno=True)\nfor name, call in {CALLS!r}.items():\n    r = c.syscall(*call); print(name, r, ctypes.get_errno())\n"
    text = python(daemon, code)
    for line in text.splitlines():
        _, result, error = line.rsplit(" ", 2)
        # A kernel without a call says so before any filter: ENOSYS (38).
        assert result == "-1" and error in ("1", "38"), line
    assert len(text.splitlines()) == len(CALLS)


def test_what_the_operator_requires(make):
    daemon = make("--sandbox-required", "full")
    text = bash(daemon, "echo ran")
    assert ("ran" in text) == (ABI >= 6), text
    assert ("sandboxRequired" in text) == (ABI < 6), text


@pytest.mark.parametrize("arguments", [["--sandbox", "none"], ["--sandbox-required", "all"], ["--network", "maybe"],
                                       ["--tool-memory", "much"], ["--sandbox", "off", "--sandbox-required", "net"]])
def test_settings_that_are_wrong(new_daemon, arguments):
    done = new_daemon().run_to_end(*arguments)
    assert done.returncode == 2, done.stderr


def test_limits(make):
    daemon = make(toolFileSize="1M", toolMemory="256M", toolProcesses=4000)
    assert "1048576" in bash(daemon, "(trap '' XFSZ; head -c 2000000 /dev/zero > f); stat -c %s f")
    assert "MemoryError" in python(daemon, "x = bytearray(600 << 20)\nprint('taken')\n")


# Ordinary work.


def needs(*programs):
    missing = [program for program in programs if not shutil.which(program)]
    return pytest.mark.skipif(bool(missing), reason=f"there is no {', '.join(missing)}")


@needs("git")
def test_git(daemon):
    text = bash(daemon, "git init -q a && cd a && git config user.email a@b.c && git config user.name n && echo x > f && git add f && "
                        "git commit -qm one && cd .. && git clone -q a b && cat b/f && cd a && git worktree add -q ../w && ls ../w")
    assert text == "x\nf\n"


@needs("gcc", "make")
def test_gcc_and_make(daemon):
    (daemon.cwd / "a.c").write_text('#include <stdio.h>\nint main(void) { puts("built"); return 0; }\n')
    (daemon.cwd / "Makefile").write_text("all: a b\na: a.c\n\tgcc -o a a.c\nb: a.c\n\tgcc -o b a.c\n")
    assert bash(daemon, "make -s -j2 && ./a && ./b") == "built\nbuilt\n"


def test_python(daemon):
    code = "import multiprocessing as m\nif __name__ == '__main__':\n    with m.Pool(2) as p:\n        print(p.map(abs, [-1, -2]))\n    q = m.Queue(); t = m.Process(target=q.put, args=(3,)); t.start(); print(q.get()); t.join()\n"
    assert python(daemon, code) == "[1, 2]\n3\n"
    assert bash(daemon, f"{PYTHON} -m venv --without-pip v && v/bin/python -c 'print(1)'") == "1\n"


@needs("cargo")
def test_cargo_with_a_listener(daemon):
    (daemon.cwd / "src").mkdir()
    (daemon.cwd / "Cargo.toml").write_text('[package]\nname = "p"\nversion = "0.1.0"\nedition = "2021"\n')
    (daemon.cwd / "src/lib.rs").write_text(
        '#[test]\nfn it_listens() { let l = std::net::TcpListener::bind("127.0.0.1:0").unwrap();\n'
        'std::net::TcpStream::connect(l.local_addr().unwrap()).unwrap(); }\n')
    toolchain = {name: value for name, value in os.environ.items() if name in ("RUSTUP_HOME",)}
    prefix = "".join(f"export {name}={value}; " for name, value in toolchain.items()) or f"export RUSTUP_HOME={Path.home()}/.rustup; "
    text = bash(daemon, prefix + "cargo test --offline -q 2>&1")
    assert "1 passed" in text, text


@needs("node", "npm")
def test_node(daemon):
    (daemon.cwd / "f.js").write_text("const {fork} = require('child_process'); if (process.send) process.send('hi'); else fork(__filename).on('message', m => console.log(m))")
    (daemon.cwd / "dep").mkdir()
    (daemon.cwd / "dep/package.json").write_text(json.dumps({"name": "dep", "version": "1.0.0"}))
    assert bash(daemon, "node f.js") == "hi\n"
    assert "added" in bash(daemon, "npm install --offline --no-audit --no-fund ./dep 2>&1")


@needs("curl")
def test_a_server_for_a_later_call(daemon):
    daemon.model.script("hello")
    daemon.session("s", "x").text()
    bash(daemon, f"{PYTHON} -u -m http.server 0 --bind 127.0.0.1 > out 2>&1 & until grep -q http out; do sleep 0.05; done", session="s")
    text = bash(daemon, "curl -s -o /dev/null -w '%{http_code}' $(grep -o 'http://[^ /)]*' out)/", session="s")
    assert text == "200"


def test_large_results_and_parallel_calls(daemon):
    calls = [ToolCall("bash", {"command": f"seq {n} {n + 30000}"}) for n in range(6)]
    daemon.model.script(calls, "done")
    assert daemon.run("go").text() == "done"
    results = daemon.model.requests[-1].tool_results
    assert len(results) == 6 and all("Full output" in text for text, _ in results)


def test_what_is_told_of_it(daemon):
    expected = {"profile": "workspace", "level": "full" if ABI >= 6 else "files" if ABI else "net", "network": "on"}
    daemon.model.script("hello")
    daemon.session("s", "x").text()
    assert daemon.inspect("s")["sandbox"] == expected
    assert daemon.list()["sessions"][0]["sandbox"] == expected
    assert daemon.settings()["sandboxLevel"][0] == expected["level"]


def test_edits_of_one_file_by_two_sessions(make):
    daemon = make("--model", "offline/demo")
    (daemon.cwd / "f").write_text("".join(f"<{n}>\n" for n in range(40)))

    def edits(numbers):
        calls = [{"path": "f", "edits": [{"oldText": f"<{n}>", "newText": f"[{n}]"}]} for n in numbers]
        return "@parallel\n" + "\n".join(f"@tool edit {json.dumps(call)}" for call in calls)

    streams = [daemon.session("a", edits(range(20))), daemon.session("b", edits(range(20, 40)))]
    for stream in streams:
        stream.text()
    assert (daemon.cwd / "f").read_text() == "".join(f"[{n}]\n" for n in range(40))


def test_an_abort_ends_what_has_left_everything(daemon):
    daemon.model.script("hello")
    daemon.session("s", "x").text()
    bash(daemon, "(env -i setsid sleep 600 >/dev/null 2>&1 & echo $! > kept)", session="s")
    command = "(env -i setsid sh -c 'echo $$ > pid; exec sleep 600' >/dev/null 2>&1 &); until [ -s pid ]; do sleep 0.01; done; touch begun; sleep 600"
    daemon.model.script([ToolCall("bash", {"command": command})], "never")
    daemon.prompt("s", "go")
    eventually(lambda: (daemon.cwd / "begun").exists(), "it has begun")
    daemon.bus.ask_json(f"{daemon.subject('s')}.abort")
    gone, kept = (int((daemon.cwd / name).read_text()) for name in ("pid", "kept"))
    eventually(lambda: not proc.alive(gone), "it ends with its call", timeout=5)
    assert proc.alive(kept), "that of an earlier call goes on"


def test_a_session_may_ask_for_less(make):
    daemon = make()
    for asked, expected in [({"sandbox": "read-only"}, ("read-only", "on")), ({"network": "off"}, ("workspace", "off")), ({}, ("workspace", "on"))]:
        session = f"s{len(daemon.session_ids())}"
        daemon.model.script("hello")
        daemon.session(session, "x", **asked).text()
        found = daemon.inspect(session)["sandbox"]
        assert (found["profile"], found["network"]) == expected
    if ABI:
        assert "refused" in bash(daemon, "echo x > f || echo refused", session="s0")
    daemon.process.terminate()
    daemon.process.wait(20)
    daemon.start()
    assert {row["sessionId"]: row["sandbox"]["profile"] for row in daemon.list()["sessions"]} == {
        "s0": "read-only", "s1": "workspace", "s2": "workspace"}
    assert daemon.inspect("s1")["sandbox"]["network"] == "off"


@pytest.mark.parametrize(("config", "asked", "word"), [
    ({"profile": "workspace"}, {"sandbox": "off"}, "narrowed"),
    ({"profile": "read-only"}, {"sandbox": "workspace"}, "narrowed"),
    ({"network": "off"}, {"network": "on"}, "narrowed"),
    ({}, {"sandbox": "none"}, "read-only, workspace or off"),
    ({}, {"sandbox": True}, "must be a string"),
    ({}, {"network": "maybe"}, "on nor off"),
])
def test_a_session_may_not_ask_for_more(make, config, asked, word):
    daemon = make(**config)
    refusal = daemon.refusal({"sessionMode": "session", "sessionId": "s", "body": "x", "cwd": str(daemon.cwd), **asked})
    assert refusal.document["error"] == "invalid_request" and word in json.dumps(refusal.document)


def test_a_session_may_ask_for_a_sandbox_where_there_is_none(make):
    daemon = make(profile="off")
    daemon.model.script("hello")
    daemon.session("s", "x", sandbox="workspace").text()
    found = daemon.inspect("s")["sandbox"]
    assert found["profile"] == "workspace" and (found["level"] == "full") == (ABI >= 6)
    if ABI:
        assert "refused" in bash(daemon, f"echo x > {daemon.home}/f || echo refused", session="s")
    assert daemon.run("x", network="off").failure().code == 400


def configure(daemon, session, **changes):
    return daemon.bus.ask_json(f"{daemon.subject(session)}.configure", changes)


@pytest.mark.parametrize("profile", ["off", "workspace"])
def test_a_session_is_narrowed_later_and_never_widened(make, profile):
    daemon = make(profile=profile)
    daemon.model.script("hello")
    daemon.session("s", "x").text()
    bash(daemon, "env -i setsid sleep 600 > out 2>&1 & echo $! > pid", session="s")
    pid = int((daemon.cwd / "pid").read_text())
    assert proc.alive(pid)
    assert "error" not in configure(daemon, "s", sandbox="read-only", network="off")
    found = daemon.inspect("s")["sandbox"]
    assert (found["profile"], found["network"]) == ("read-only", "off")
    if profile == "workspace":
        eventually(lambda: not proc.alive(pid), "what may do more has ended")
    for wider in ({"sandbox": "workspace"}, {"sandbox": "off"}, {"network": "on"}):
        assert "narrowed" in json.dumps(configure(daemon, "s", **wider))
    assert "network" in json.dumps(configure(daemon, "s", network="maybe"))
    if ABI:
        assert "refused" in bash(daemon, "echo x > f || echo refused", session="s")
    # It holds for whoever goes on with the session's file, and over a restart.
    (file,) = daemon.session_files()
    daemon.stop_session("s")
    daemon.model.script("hello")
    daemon.session("again", "x", resume=str(file)).text()
    daemon.process.terminate()
    daemon.wait_exit()
    daemon.start()
    found = daemon.inspect("again")["sandbox"]
    assert (found["profile"], found["network"]) == ("read-only", "off")


def test_a_session_at_work_is_not_narrowed(make):
    daemon = make()
    daemon.model.script("hello")
    daemon.session("s", "x").text()
    daemon.model.script([ToolCall("bash", {"command": "touch begun; until [ -e go ]; do sleep 0.02; done"})], "done")
    stream = daemon.prompt("s", "go")
    eventually(lambda: (daemon.cwd / "begun").exists(), "it has begun")
    assert "being worked on" in json.dumps(configure(daemon, "s", sandbox="read-only"))
    (daemon.cwd / "go").touch()
    assert stream.text() == "done"
    assert daemon.inspect("s")["sandbox"]["profile"] == "workspace"


def test_programs_of_others_go_on_when_a_runner_ends(make):
    """What a session without a sandbox has left behind is the daemon's, like what a killed runner leaves."""
    daemon = make(profile="off")
    for name, fields in {"free": {}, "confined": {"sandbox": "workspace"}}.items():
        daemon.model.script("hello")
        daemon.session(name, "x", **fields).text()
    bash(daemon, "(setsid sleep 600 > out 2>&1 & echo $! > pid)", session="free")
    runner = int(bash(daemon, "echo $PPID", session="confined"))
    pid = int((daemon.cwd / "pid").read_text())
    os.kill(runner, 9)
    eventually(lambda: not proc.alive(runner), "the runner has ended")
    runner = int(bash(daemon, "echo $PPID", session="confined"))
    daemon.stop_session("confined")
    eventually(lambda: not proc.alive(runner), "the second one has ended")
    assert proc.alive(pid)


# Files that make programs run later.


def events_of(daemon, session, command):
    with Bridge(daemon.session_socket(session)) as bridge:
        bridge.ask("subscribe")
        text = bash(daemon, command, session=session)
        bridge.event("tool_execution_end")
        return text, [record["data"]["paths"] for record in bridge.seen if record.get("event") == "sensitive_files_changed"]


@pytest.mark.parametrize("profile", ["off", "workspace"])
def test_changes_of_what_runs_later_are_told(make, profile):
    daemon = make(profile=profile)
    (daemon.cwd / ".github/workflows").mkdir(parents=True)
    (daemon.cwd / ".github/workflows/ci.yml").write_text("on: push\n")
    daemon.model.script("hello")
    daemon.session("s", "x").text()
    assert events_of(daemon, "s", "echo x > other; mkdir .github/other") == ("(no output)", [])
    _, told = events_of(daemon, "s", "echo 'jobs: {}' >> .github/workflows/ci.yml; mkdir -p .pi; echo '{}' > .pi/settings.json; echo x > .envrc")
    assert told == [[".envrc", ".github/workflows/ci.yml", ".pi/settings.json"]]


@needs("git")
def test_hooks_that_a_session_has_changed_do_not_run_in_it(daemon):
    daemon.model.script("hello")
    daemon.session("s", "x", env={"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "user.name", "GIT_CONFIG_VALUE_0": "n"}).text()
    bash(daemon, "git init -q . && git config user.email a@b.c", session="s")
    _, told = events_of(daemon, "s", "printf '#!/bin/sh\\ntouch ran\\n' > .git/hooks/pre-commit; chmod +x .git/hooks/pre-commit")
    assert told == [[".git/hooks/pre-commit"]]
    text = bash(daemon, "git commit -q --allow-empty -m one && git log --format=%an && ls", session="s")
    assert text == "n\n", "the hook has not run"


@files
def test_a_folder_with_very_many_entries(daemon):
    """Of the home folder, which has secrets in it, everything else is read, however much there is."""
    for number in range(6000):
        (daemon.home / f"file{number}").write_text("for all")
    (daemon.home / "project").mkdir()
    (daemon.home / "project/notes").write_text("for all")
    assert bash(daemon, "cat ~/file5999 ~/project/notes; cat ~/.ssh/id 2>&1; true").startswith("for allfor allcat: ")
