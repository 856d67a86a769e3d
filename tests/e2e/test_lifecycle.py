"""Start, lifetimes, shutdown."""

import re
import signal
import socket
import time

import pytest

from support import proc
from support.bus import NoResponders
from support.model_script import Gate, Stall, ToolCall
from support.nats_server import NatsServer
from support.waiting import DEADLINE, eventually


def gone(bus, subject):
    try:
        bus.ask(subject, timeout=2)
        return False
    except NoResponders:
        return True


def test_the_log_says_where_it_is(daemon, nats_server):
    wanted = [
        rf"pi-exec: connecting to (nats://)?{re.escape(nats_server.address)} \(context: default\)$",
        r"pi-exec: connected$",
        rf"pi-exec: intake registered on {re.escape(daemon.intake)}$",
    ]
    lines = iter(daemon.log)
    for pattern in wanted:
        assert any(re.search(pattern, line) for line in lines), f"{pattern!r} not in order in {daemon.log}"


def test_it_waits_for_a_server_that_is_not_there_yet(own_server, own_bus, new_daemon):
    server = own_server(wait=False)
    with socket.create_server(("127.0.0.1", server.port)) as listener:
        listener.settimeout(DEADLINE)
        daemon = new_daemon(server.url, None).spawn()
        for _ in range(4):
            listener.accept()[0].close()
    complaints = [line for line in daemon.log if server.address in line and "connecting to" not in line]
    assert len(complaints) == 1, f"one line for all the attempts: {daemon.log}"
    server.start()
    daemon.bus = own_bus(server.url)
    daemon.wait_log("intake registered")
    daemon.wait_ready()


def test_it_takes_the_next_server_when_the_first_is_down(own_server, own_bus, new_daemon):
    down, up = own_server(wait=False), own_server()
    daemon = new_daemon(f"{down.url},{up.url}", own_bus(up.url)).start()
    assert daemon.list()["sessions"] == []


def test_it_moves_to_another_server_of_the_cluster(tmp_path, own_server, own_bus, new_daemon, model):
    """The second address is all it needs when the first server goes for good."""
    first, second = own_server(), own_server()
    daemon = new_daemon(f"{first.url},{second.url}", own_bus(first.url)).start()
    model.script("one", "two")
    daemon.session("s", "x").text()
    first.stop()
    daemon.bus = own_bus(second.url)
    daemon.wait_ready()
    assert daemon.prompt("s", "y").text() == "two"


@pytest.mark.parametrize("kind", ["idle", "busy"])
def test_a_session_ends_with_its_lifetime(daemon, model, bus, kind):
    model.script(["begun", Gate()] if kind == "busy" else "begun")
    stream = daemon.session("s", "x", maxLifetime=1)
    born = time.monotonic()
    stream.until("begun")
    facts = daemon.inspect("s")
    instance = facts["instanceId"]
    assert facts["maxLifetime"] == 1 and 0 <= facts["remainingLifetime"] <= 1
    waiting = daemon.prompt("s", "later") if kind == "busy" else None
    eventually(lambda: daemon.session_ids() == [], "the session has ended")
    # It counts from creation, and is exact to a second.
    assert 0.9 <= time.monotonic() - born <= 2.1
    for subject in (daemon.subject("s"), daemon.subject("s") + ".inspect"):
        eventually(lambda subject=subject: gone(bus, subject), f"{subject} is gone", timeout=2)
    assert bus.is_silent(f"$SRV.PING.pi-exec.{instance}", fence=daemon.discover)
    if kind == "busy":
        for cut in (stream, waiting):
            assert cut.failure().text.startswith("error: session expired")
        assert model.requests[0].left.wait(5)
    else:
        assert stream.text() == "begun"


def test_activity_does_not_prolong_a_life(daemon, model):
    model.answer(lambda request: "ok")
    daemon.session("s", "x", maxLifetime=2).text()
    born = time.monotonic()

    def over():
        try:
            # Any answer shows that it lived; the last prompt may meet its end.
            daemon.prompt("s", "more").message()
            return False
        except NoResponders:
            return True

    eventually(over, "the session has ended")
    assert time.monotonic() - born < 3.1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_an_idle_daemon_at_once(daemon, model, bus, number):
    model.script("ok")
    daemon.session("s", "x").text()
    begun = time.monotonic()
    daemon.signal(number)
    assert daemon.wait_exit() == 0
    assert time.monotonic() - begun < 3
    for subject in (daemon.intake, daemon.subject("s")):
        eventually(lambda subject=subject: gone(bus, subject), f"{subject} is gone", timeout=5)


def test_running_prompts_get_the_grace_period(daemon, model):
    gate = Gate()
    model.script(["first half, ", gate, "second half"], ["run, ", gate, "run to its end"])
    session = daemon.session("s", "x")
    session.until("first half")
    run = daemon.run("y")
    run.until("run, ")
    daemon.signal()
    daemon.wait_log("SIGTERM")

    # Newcomers are told, in every mode, and by the sessions too.
    def refused():
        return daemon.bus.ask_json(daemon.intake, {"sessionMode": "list"}) == {"error": "shutting_down"}

    eventually(refused, "the intake says that it shuts down")
    for mode in ("run", "session"):
        request = {"sessionMode": mode, "sessionId": "t", "body": "x", "cwd": str(daemon.cwd)}
        message = daemon.bus.ask(daemon.intake, request)
        assert message.data == b'{"error":"shutting_down"}'
        assert message.headers["Nats-Service-Error-Code"] == "503"
    late = daemon.prompt("s", "late").failure()
    assert late.code == 503 and late.text.startswith("error: shutting_down")
    assert daemon.running()
    gate.open()
    assert session.text() == "first half, second half"
    assert run.text() == "run, run to its end"
    assert daemon.wait_exit() == 0


def test_the_grace_period_ends(new_daemon, model):
    daemon = new_daemon().start("--grace", "1")
    model.script(["begun", Stall()])
    stream = daemon.session("s", "x")
    stream.until("begun")
    queued = daemon.prompt("s", "queued")
    daemon.wait_session("s", lambda facts: facts["queuedRequests"] == 1, "one prompt waits")
    begun = time.monotonic()
    daemon.signal()
    assert daemon.wait_exit() == 0
    assert 0.9 <= time.monotonic() - begun < 4
    # Neither has an end yet, since both are worked on after the next start.
    model.script("whole", "next")
    daemon.start("--grace", "1")
    assert (stream.text(), queued.text()) == ("begunwhole", "next")
    daemon.assert_nothing_follows(stream, queued)


@pytest.mark.parametrize("policy", ["hold", "end"])
def test_what_is_not_gone_on_with_is_told_so(new_daemon, model, policy):
    daemon = new_daemon().start("--grace", "0", "--on-restart", policy)
    model.script(["begun", Stall()])
    stream = daemon.session("s", "x")
    stream.until("begun")
    queued = daemon.prompt("s", "queued")
    daemon.wait_session("s", lambda facts: facts["queuedRequests"] == 1, "one prompt waits")
    daemon.signal()
    assert stream.failure().text.startswith("error: shutting_down")
    assert daemon.wait_exit() == 0
    model.script("next")
    daemon.start()
    if policy == "hold":
        assert queued.text() == "next"
    else:
        assert queued.failure().text.startswith("error: shutting_down")
        assert daemon.session_ids() == []


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_the_grace_period(daemon, model, second):
    model.script(["begun", Stall()])
    stream = daemon.run("x")
    stream.until("begun")
    begun = time.monotonic()
    daemon.signal()
    daemon.wait_log("SIGTERM")
    daemon.signal(second)
    assert daemon.wait_exit() == 0
    assert time.monotonic() - begun < 5, "the default grace period is 20 s"


def test_fifty_stuck_prompts_all_get_their_end(new_daemon, model):
    daemon = new_daemon().start("--grace", "1", "--on-restart", "hold")
    model.answer(lambda request: ["begun", Stall()])
    streams = [daemon.session(f"s{number}", "x") for number in range(50)]
    for stream in streams:
        stream.until("begun")
    daemon.signal()
    for stream in streams:
        assert stream.failure().text.startswith("error: shutting_down")
    assert daemon.wait_exit() == 0


def test_tools_die_with_the_daemon(new_daemon, model):
    daemon = new_daemon().start("--grace", "0")
    pids = daemon.cwd / "pids"
    command = f"setsid sleep 600 & echo $! >> {pids}; sleep 600 & echo $! >> {pids}; echo $$ >> {pids}; wait"
    model.script([ToolCall("bash", {"command": command})])
    stream = daemon.session("s", "x")
    found = eventually(lambda: pids.exists() and len(found := pids.read_text().split()) == 3 and found, "three processes")
    daemon.signal()
    assert daemon.wait_exit() == 0
    assert stream.pending() == 0
    eventually(lambda: not any(proc.alive(int(pid)) for pid in found), "all of them are gone", timeout=3)


def test_a_signal_while_the_server_is_away(own_server, own_bus, new_daemon):
    server = own_server()
    daemon = new_daemon(server.url, own_bus(server.url)).start()
    server.stop()
    daemon.signal()
    assert daemon.wait_exit() == 0


def test_a_signal_before_the_first_connection(own_server, new_daemon):
    daemon = new_daemon(own_server(wait=False).url, None).spawn()
    daemon.wait_log("connecting to")
    daemon.signal()
    assert daemon.wait_exit() == 0


def test_a_frozen_server_does_not_hold_up_the_end(own_server, own_bus, new_daemon):
    server: NatsServer = own_server()
    daemon = new_daemon(server.url, own_bus(server.url)).start()
    server.freeze()
    try:
        daemon.signal()
        assert daemon.wait_exit() == 0
    finally:
        server.thaw()


def test_sessions_leave_nothing_behind(daemon, model):
    """Threads and files come back to where they were."""
    model.answer(lambda request: "ok")

    def round_of_sessions():
        streams = [daemon.session(f"s{number}", "x") for number in range(20)]
        streams += [daemon.run("y") for _ in range(20)]
        for stream in streams:
            stream.text()
        for number in range(20):
            assert daemon.stop_session(f"s{number}")["ok"]

    # The first round fills the pools: connections to the model that are kept for the next request.
    round_of_sessions()
    eventually(lambda: daemon.list()["runs"] == [], "the runs are over")
    threads, files = len(proc.threads(daemon.pid)), proc.open_files(daemon.pid)
    for _ in range(3):
        round_of_sessions()
    eventually(lambda: len(proc.threads(daemon.pid)) <= threads, "no thread is left")
    eventually(lambda: proc.open_files(daemon.pid) <= files + 4, "no file is left open")
    assert proc.children(daemon.pid) == []


def test_every_thread_has_a_name(daemon, model):
    gate = Gate()
    model.script(["a", gate])
    stream = daemon.session("named", "x")
    stream.until("a")
    names = proc.threads(daemon.pid)
    # A thread nobody named has the name of the program.
    assert [name for name in names if name.startswith("nats-pi")] in (["nats-pi-bridge"], [])
    assert "nats-io" in names
    assert any(name.startswith("s-") for name in names) and any(name.startswith("t-") for name in names)
    gate.open()
    stream.text()
