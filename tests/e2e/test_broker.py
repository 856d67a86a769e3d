"""The daemon serves NATS itself where no server is named."""

import asyncio
import contextlib
import os
import signal
import socket
import sys

import nats
import pytest

from support.model_script import ToolCall
from support.nats_server import free_port
from support.waiting import DEADLINE

STRANGER = 54321
"""The number of a user who is nobody here."""
SYSTEM_USER = 54
as_another_user = pytest.mark.skipif(os.geteuid() != 0, reason="only root can try it as another user")


@pytest.fixture
def alone(new_daemon, own_bus):
    """Starts a daemon that is told of no server, and connects a caller to it."""

    def start(*arguments, address=None, **options):
        address = address or f"127.0.0.1:{free_port()}"
        daemon = new_daemon(bus=None)
        del daemon.config["server"]
        daemon.spawn("--listen", address, *arguments)
        daemon.wait_log("intake registered")
        daemon.address = address
        daemon.bus = own_bus(f"nats://{address.replace('0.0.0.0', '127.0.0.1')}", **options)
        return daemon

    return start


def test_it_needs_no_server(alone, model):
    daemon = alone()
    daemon.wait_log(f"serving one on {daemon.address}$")
    model.script("hello")
    assert daemon.session("one", "hi").text() == "hello"
    assert daemon.session_ids() == ["one"]
    daemon.signal()
    assert daemon.wait_exit() == 0


def test_a_server_that_is_there_is_used(alone, own_server, model):
    server = own_server()
    daemon = alone(address=server.address)
    assert "serving one" not in daemon.log_text()
    model.script("hello")
    assert daemon.run("hi").text() == "hello"


def test_it_can_be_forbidden(new_daemon):
    daemon = new_daemon(bus=None)
    del daemon.config["server"]
    port = free_port()
    daemon.spawn("--listen", f"127.0.0.1:{port}", "--no-broker")
    daemon.wait_log(f"no connection to 127.0.0.1:{port}")
    assert "serving one" not in daemon.log_text()


def test_a_named_server_leaves_no_room_for_it(new_daemon):
    done = new_daemon().run_to_end("--listen", "127.0.0.1:1")
    assert done.returncode == 2
    assert "--listen" in done.stderr and "not used when a server is named" in done.stderr


def test_other_machines_need_a_password(new_daemon):
    daemon = new_daemon(bus=None)
    del daemon.config["server"]
    done = daemon.run_to_end("--listen", "0.0.0.0:0")
    assert done.returncode == 2
    assert "set user and password, or token" in done.stderr


def test_with_a_password_it_serves_other_machines(alone, own_bus, model):
    daemon = alone("--token", "s3cret-7", address=f"0.0.0.0:{free_port()}", token="s3cret-7")
    model.script("hello")
    assert daemon.run("hi").text() == "hello"
    with pytest.raises(Exception, match=r"(?i)authorization"):
        own_bus(f"nats://{daemon.address.replace('0.0.0.0', '127.0.0.1')}", allow_reconnect=False)
    assert "s3cret-7" not in daemon.log_text()


def test_callers_come_back_after_a_restart(alone, model):
    daemon = alone()
    model.script("one")
    assert daemon.run("hi").text() == "one"
    daemon.signal()
    assert daemon.wait_exit() == 0
    daemon.spawn("--listen", daemon.address)
    daemon.wait_log("intake registered")
    daemon.wait_ready()
    model.script("two")
    assert daemon.run("hi").text() == "two"


def test_another_daemon_serves_when_the_one_that_did_has_gone(alone, model):
    one = alone()
    two = alone(address=one.address)
    assert "serving one" not in two.log_text()
    one.signal()
    assert one.wait_exit() == 0
    two.wait_log(f"serving one on {one.address}$")
    two.wait_ready()
    model.script("hello")
    assert two.run("hi").text() == "hello"


def test_a_connect_with_nulls_is_understood(alone):
    """async-nats writes `"name":null` where no name was set."""
    host, port = alone().address.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=DEADLINE) as client:
        client.sendall(b'CONNECT {"verbose":false,"name":null,"verbose":false}\r\nPING\r\n')
        received = b""
        while b"PONG" not in received:
            part = client.recv(4096)
            assert part and b"-ERR" not in received, received
            received += part


def test_a_queue_group_is_one_over_all_its_patterns(alone):
    url = f"nats://{alone().address}"

    async def use():
        one, two = await nats.connect(url), await nats.connect(url)
        seen = []

        async def note(message):
            seen.append(message.data)

        await one.subscribe("x.y", queue="q", cb=note)
        await two.subscribe("x.*", queue="q", cb=note)
        await one.flush()
        await two.flush()
        for number in range(100):
            await one.publish("x.y", str(number).encode())
        await one.flush()
        await two.flush()
        await one.drain()
        await two.drain()
        assert sorted(seen, key=int) == [str(number).encode() for number in range(100)]

    asyncio.run(asyncio.wait_for(use(), 30))


def test_ordinary_use_by_a_client_nobody_here_wrote(alone):
    """Wildcards, queue groups, headers, many replies to one request, no responders, drain."""
    url = f"nats://{alone().address}"

    async def use():
        one, two = await nats.connect(url), await nats.connect(url)
        seen, served = [], []

        async def note(message):
            seen.append((message.subject, message.data, dict(message.headers or {})))

        async def serve(message):
            served.append(message.data)
            for part in (b"a", b"b", b""):
                await message.respond(part)
            # This client forgets to send now and then what is published from within a callback.
            await one.flush()

        await one.subscribe("w.*.x", cb=note)
        await one.subscribe("w.>", cb=note)
        for _ in range(3):
            await one.subscribe("q.work", queue="workers", cb=serve)
        await one.flush()
        await two.publish("w.1.x", b"hello", headers={"Kind": "greeting"})
        await two.publish("w.1.y", b"there")
        inbox = two.new_inbox()
        replies = await two.subscribe(inbox)
        await two.publish("q.work", b"job", reply=inbox)
        await two.flush()
        parts = [(await replies.next_msg(timeout=DEADLINE)).data for _ in range(3)]
        assert parts == [b"a", b"b", b""]
        await two.flush()
        await one.flush()
        assert served == [b"job"], "one member of the group works"
        assert seen.count(("w.1.x", b"hello", {"Kind": "greeting"})) == 2
        assert seen.count(("w.1.y", b"there", {})) == 1
        with pytest.raises(nats.errors.NoRespondersError):
            await two.request("nobody.here", b"", timeout=DEADLINE)
        await one.drain()
        await two.drain()

    asyncio.run(asyncio.wait_for(use(), 30))


@pytest.mark.parametrize(
    ("pattern", "answer"),
    [
        (["a"] * 2000, "MSG {subject} 1 1\r\nx\r\n"),
        (["*"] * 2000, "-ERR 'Permissions Violation for Subscription to"),
        (["a"] * 1999 + [">"], "-ERR 'Permissions Violation for Subscription to"),
    ],
    ids=["literal", "wildcards", "tail"],
)
def test_subjects_of_2000_words_harm_nobody(alone, pattern, answer):
    """As many as a line has room for; matching them must not exhaust a thread's stack."""
    daemon = alone()
    host, port = daemon.address.split(":")
    with socket.create_connection((host, int(port)), timeout=DEADLINE) as client:
        subject = ".".join(["a"] * 2000)
        client.sendall(f'CONNECT {{"verbose":false}}\r\nSUB {".".join(pattern)} 1\r\nPUB {subject} 1\r\nx\r\nPING\r\n'.encode())
        heard = b""
        while not heard.endswith(b"PONG\r\n"):
            heard += client.recv(65536)
        assert answer.format(subject=subject).encode() in heard
    assert daemon.list()["sessions"] == []


@contextlib.contextmanager
def forked(uid, act):
    """Runs `act(out)` as another user, in a process of its own. It must not load anything, as that user may read nothing
    of ours. Gives the file into which what it writes to `out` comes."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        try:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            act(write)
        finally:
            os._exit(0)
    os.close(write)
    try:
        with os.fdopen(read, "rb", buffering=0) as output:
            yield output
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def squatting(port):
    """Says what a NATS server says first, and writes down what it hears."""

    def act(out):
        server = socket.create_server(("127.0.0.1", port))
        os.write(out, b"ready\n")
        while True:
            connection, _ = server.accept()
            connection.sendall(b'INFO {"server_id":"x","version":"2.10.0","headers":true,"max_payload":1048576,"proto":1}\r\n')
            while heard := connection.recv(4096):
                os.write(out, heard)
                connection.sendall(b"PONG\r\n")

    return act


def check_that_it_is_used(new_daemon, uid, option):
    """A daemon that is told of the port by this option connects to the server that this user has there."""
    port = free_port()
    with forked(uid, squatting(port)) as output:
        assert output.read(6) == b"ready\n"
        daemon = new_daemon(bus=None)
        del daemon.config["server"]
        daemon.spawn(option, f"127.0.0.1:{port}")
        assert b"CONNECT" in output.read(4096)


@as_another_user
def test_another_user_is_refused(alone):
    daemon = alone()
    host, port = daemon.address.rsplit(":", 1)

    def knock(out):
        with socket.create_connection((host, int(port)), timeout=DEADLINE) as client:
            client.sendall(b'CONNECT {"verbose":false}\r\nPUB agents.pi-exec.tester 0\r\n\r\nPING\r\n')
            while part := client.recv(4096):
                os.write(out, part)

    with forked(STRANGER, knock) as output:
        answer = b"".join(iter(lambda: output.read(4096), b"")).decode()
    assert "-ERR 'Authorization Violation: only processes of the user who runs this server" in answer
    assert "PONG" not in answer
    daemon.wait_log(f"connections of other users were refused.*of user {STRANGER}")
    assert daemon.session_ids() == [], "its own user is served on"


@as_another_user
def test_a_port_that_another_user_holds_is_not_used(new_daemon):
    port = free_port()
    with forked(STRANGER, squatting(port)) as output:
        assert output.read(6) == b"ready\n"
        daemon = new_daemon(bus=None)
        del daemon.config["server"]
        done = daemon.run_to_end("--listen", f"127.0.0.1:{port}", "--token", "s3cret-8")
        assert done.returncode != 0
        assert f"127.0.0.1:{port} is in use by another user (uid {STRANGER})" in done.stderr
        assert "--listen" in done.stderr and "--server" in done.stderr
        os.set_blocking(output.fileno(), False)
        assert output.read(1000) is None, "it was told nothing"
    # Named, it is used, whoever it belongs to.
    check_that_it_is_used(new_daemon, STRANGER, "--server")


@as_another_user
def test_a_server_of_the_system_is_used(new_daemon):
    check_that_it_is_used(new_daemon, SYSTEM_USER, "--listen")


@as_another_user
def test_who_takes_the_port_of_a_server_that_went_away_is_told_nothing(new_daemon, own_server):
    server = own_server()
    daemon = new_daemon(bus=None)
    del daemon.config["server"]
    daemon.spawn("--listen", server.address)
    daemon.wait_log("intake registered")
    server.stop()
    # What comes later is told too, though it is the same outage.
    daemon.wait_log("Connection refused")
    with forked(STRANGER, squatting(server.port)) as output:
        assert output.read(6) == b"ready\n"
        daemon.wait_log("it belongs to another user of this host, and is used only if --server names it")
        os.set_blocking(output.fileno(), False)
        assert output.read(1000) is None, "it was told nothing"
    daemon.wait_log(f"serving one on {server.address}$")


@pytest.mark.parametrize("profile", ["off", "workspace"])
def test_programs_of_sessions_are_refused(alone, model, profile):
    daemon = alone("--sandbox", profile, "--unix-sockets")
    host, port = daemon.address.rsplit(":", 1)
    # By itself, and after it has lost its parents, its session and the variables that mark it.
    knock = f"exec 3<>/dev/tcp/{host}/{port}; head -n 2 <&3 | tail -n 1"
    hide = f"(setsid env -i bash -c '{knock} > hidden.part; mv hidden.part hidden' &); until test -e hidden; do sleep 0.02; done"
    reach = (
        f"{sys.executable} -c 'import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); "
        f"print(s.makefile().readline())' {daemon.socket}"
    )
    model.script([ToolCall("bash", {"command": f"{knock}; {hide}; cat hidden; {reach}"})], "done")
    assert daemon.session("one", "hi").text() == "done"
    ((result, _),) = model.requests[-1].tool_results
    said = "-ERR 'Authorization Violation: programs that an agent has started may not connect'"
    assert result.count(said) == 2, result
    assert "programs that an agent has started may not use this socket" in result
    # Others, this test among them, are served while such programs run.
    assert daemon.session_ids() == ["one"]
