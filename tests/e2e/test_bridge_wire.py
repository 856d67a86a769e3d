"""The side channel's wire: lines, ids, order, clients that behave badly, clients that do not read."""

import itertools
import json
import resource
import socket
import time

import pytest

from support import proc
from support.bridge import Bridge, BridgeClosed
from support.waiting import DEADLINE, eventually

pytestmark = pytest.mark.any_server

OFFLINE = {"model": "offline/demo"}
MAX_LINE = 1 << 20


@pytest.fixture
def session(daemon):
    """The name of a session that is idle."""
    daemon.session("one", "@echo hi", **OFFLINE).text()
    return "one"


@pytest.fixture
def client(daemon, session):
    with Bridge(daemon.session_socket(session)) as bridge:
        yield bridge


def test_the_hello_comes_first_and_names_the_protocol(daemon, session):
    for path in (daemon.socket, daemon.session_socket(session)):
        with Bridge(path) as client:
            assert client.hello["type"] == "bridge_hello" and client.hello["protocol"] == "pi-session-bridge.v1"
            state = client.hello["state"]
            assert state["sessionId"] == session and state["pid"] == daemon.pid
            assert state["socketPath"] == str(path)


@pytest.mark.parametrize("request_id", [7, 1.5, "x", "", None, {"a": [1]}, [], True, "ä\u2028\n"])
def test_ids_come_back_as_they_were(client, request_id):
    assert client.exchange("ping", id=request_id)["id"] == request_id
    wrong = client.exchange("nonsense", id=request_id)
    assert wrong["id"] == request_id and wrong["error"] == "Unknown command type: nonsense"


def test_without_an_id_the_response_has_none(client):
    client.send({"type": "ping"})
    response = client.next(lambda r: r["type"] == "response")
    assert "id" not in response and response["command"] == "ping" and response["success"] is True


@pytest.mark.parametrize(
    ("line", "command", "error"),
    [
        (b"{", "parse", "SyntaxError: "),
        (b"\xff\xfe{}", "parse", "SyntaxError: "),
        (b"\x00\x01\x02", "parse", "SyntaxError: "),
        (b"[" * 100_000, "parse", "SyntaxError: "),
        (b"null", "unknown", "Unknown command type: <missing>"),
        (b"5", "unknown", "Unknown command type: <missing>"),
        (b"{}", "unknown", "Unknown command type: <missing>"),
        (b'{"type":[]}', "unknown", "Unknown command type: <missing>"),
        (b'{"type":"prompt"}', "prompt", "Expected string message or content array"),
        (b'{"type":"shutdown"}', "shutdown", "Set confirm:true to shutdown this Pi session"),
        (b'{"type":"shutdown","confirm":1}', "shutdown", "Set confirm:true to shutdown this Pi session"),
        (b'{"type":"question_reply"}', "question_reply", "Error: Expected requestId/request_id"),
    ],
)
def test_what_makes_no_sense_is_answered_and_the_connection_goes_on(client, line, command, error):
    client.send_bytes(line + b"\n")
    response = client.next(lambda r: r["type"] == "response")
    assert response["success"] is False and response["command"] == command
    assert response["error"].startswith(error)
    assert client.ask("ping")


def test_blank_lines_and_crlf(client):
    client.send_bytes(b'\n\r\n  \t\n{"type":"ping","id":1}\r\n\n{"type":"ping","id":2}\n')
    assert client.response(1)["success"] and client.response(2)["success"]
    assert all(record["type"] != "response" or record.get("id") in (1, 2) for record in client.seen)


def test_a_request_may_arrive_byte_by_byte(client):
    for byte in b'{"type":"ping","id":"slow"}\n':
        client.send_bytes(bytes([byte]))
    assert client.response("slow")["success"]


def test_many_requests_at_once_are_answered_in_order(client):
    count = 2000
    client.send_bytes(b"".join(json.dumps({"type": "emit", "message": "x", "id": n}).encode() + b"\n" for n in range(count)))
    for n in range(count):
        response = client.next(lambda r: r["type"] == "response")
        assert response["id"] == n


def test_the_longest_line_and_one_byte_more(client):
    def line(size, request_id):
        head = json.dumps({"type": "ping", "id": request_id, "pad": ""})[:-2]
        return (head + "x" * (size - len(head) - 3) + '"}\n').encode()

    assert len(line(MAX_LINE, 1)) == MAX_LINE
    client.send_bytes(line(MAX_LINE, 1))
    assert client.response(1)["success"]
    client.send_bytes(line(MAX_LINE + 1, 2) + b'{"type":"ping","id":3}\n')
    error = client.next(lambda r: r["type"] == "response" and not r["success"])
    assert (error["success"], error["error"], error["id"]) == (False, "Input line exceeds 1 MiB", 2)
    assert client.response(3)["success"]


def test_what_cannot_be_read_is_refused_under_its_id(client):
    client.send_bytes(b'{"id":"h1","type":"ping",}\n{"type":"ping" "id":"lost"}\n')
    refused = client.response("h1")
    assert refused["success"] is False and refused["command"] == "parse"
    assert "id" not in client.next(lambda r: r["type"] == "response")


def test_half_of_a_surrogate_pair_is_no_reason_to_refuse(client):
    """As JavaScript writes a text that was cut in the middle of an emoji."""
    client.send_bytes(b'{"id":"h1","type":"emit","message":"cut \\ud83d"}\n')
    assert client.response("h1")["success"]


def test_no_line_has_a_separator_inside(daemon, session):
    """U+2028 and U+2029 are allowed in JSON, and end a line for many readers."""
    with Bridge(daemon.session_socket(session), read=False) as client:
        client.send({"type": "prompt", "message": "@echo one\u2028two\u2029three"})
        raw = b""
        while b"agent_settled" not in raw:
            raw += client.socket.recv(65536)
    assert b"one\\u2028two\\u2029three" in raw
    assert "\u2028".encode() not in raw and "\u2029".encode() not in raw


def test_a_huge_line_is_one_error_and_costs_no_other_request(client):
    client.send_bytes(b'{"type":"ping","id":"before"}\n' + b"x" * (3 * MAX_LINE) + b'\n{"type":"ping","id":"after"}\n')
    assert client.response("before")["success"] and client.response("after")["success"]
    errors = [r for r in client.seen if r["type"] == "response" and not r["success"]]
    assert len(errors) == 1


def test_a_long_line_without_end_and_then_nothing(daemon, session):
    with Bridge(daemon.session_socket(session)) as client:
        client.send_bytes(b"x" * (2 * MAX_LINE))
        assert "exceeds" in client.next(lambda r: r["type"] == "response")["error"]
    assert Bridge(daemon.session_socket(session)).ask("ping")


def test_a_half_closed_client_gets_its_answers_and_then_the_end(daemon, session):
    with Bridge(daemon.session_socket(session)) as client:
        client.send_bytes(b'{"type":"get_state","id":1}\n{"type":"history","id":2}\n{"type":"half')
        client.socket.shutdown(socket.SHUT_WR)
        found = client.wait_closed()
        assert [r["id"] for r in found if r["type"] == "response"] == [1, 2]


def test_a_half_closed_client_gets_the_whole_stream(daemon):
    with Bridge(daemon.socket) as client:
        client.send({"type": "run", "id": 1, "body": "@stream 20 every 20 ms", "cwd": "/", "stream": True, **OFFLINE})
        client.socket.shutdown(socket.SHUT_WR)
        found = client.wait_closed()
    assert found[0]["success"] and found[-1] == {"type": "end", "id": 1, "success": True}
    assert "piece 19" in "".join(r["data"] for r in found if r["type"] == "chunk") or len(found) > 3


def test_what_a_request_causes_comes_before_its_answer(client):
    client.send({"type": "emit", "message": "mine", "id": 1})
    first, second = client.record(), client.record()
    assert first["type"] == "event" and first["event"] == "bridge_emit" and first["data"]["message"] == "mine"
    assert second["type"] == "response" and second["data"] == {"message": "mine"}


def test_muted_clients_hear_answers_only(daemon, session):
    with Bridge(daemon.session_socket(session)) as quiet, Bridge(daemon.session_socket(session)) as loud:
        assert quiet.ask("subscribe", enabled=False) == {"enabled": False}
        quiet.ask("emit", message="one")
        assert loud.event("bridge_emit")["data"]["message"] == "one"
        # Anything but the word false means yes.
        assert quiet.ask("subscribe", enabled=0)["enabled"] is True
        quiet.ask("emit", message="two")
        assert quiet.event("bridge_emit")["data"]["message"] == "two"
        assert not any(r["type"] == "event" and r["data"].get("message") == "one" for r in quiet.seen)


def test_subscribing_twice_tells_nothing_twice(client):
    client.ask("subscribe", enabled=True)
    client.ask("subscribe", enabled=True)
    client.ask("emit", message="once")
    client.ask("ping")
    assert sum(r["type"] == "event" and r["event"] == "bridge_emit" for r in client.seen) == 1


def test_what_was_missed_is_replayed(daemon, session):
    with Bridge(daemon.session_socket(session)) as client:
        last = client.ask("get_state")["lastSeq"]
        client.ask("subscribe", enabled=False)
        for n in range(5):
            client.ask("emit", message=f"m{n}")
        client.ask("subscribe", enabled=True, sinceSeq=last + 2)
        replayed = [r for r in client.seen if r["type"] == "event"]
        assert [r["data"]["message"] for r in replayed] == ["m2", "m3", "m4"]
        assert [r["seq"] for r in replayed] == [last + 3, last + 4, last + 5]


def test_what_is_not_kept_any_more_is_told_as_a_gap(daemon, session):
    with Bridge(daemon.session_socket(session)) as client:
        client.ask("subscribe", enabled=False)
        last = client.ask("get_state")["lastSeq"]
        for n in range(600):
            client.ask("emit", message=f"m{n}")
        client.ask("subscribe", enabled=True, sinceSeq=last)
        events = [r for r in client.seen if r["type"] == "event"]
        assert events[0]["event"] == "bridge_gap", events[0]
        gap = events[0]["data"]
        assert gap["from"] == last + 1 and gap["to"] == events[1]["seq"] - 1
        assert [e["seq"] for e in events[1:]] == list(range(events[1]["seq"], last + 601))


def test_two_clients_of_one_session_hear_the_same(daemon, session):
    with Bridge(daemon.session_socket(session)) as one, Bridge(daemon.socket) as two:
        one.ask("prompt", message="@stream 50")
        for client in (one, two):
            client.event("agent_settled")
        events = [[r["seq"] for r in client.seen if r["type"] == "event"] for client in (one, two)]
        assert events[0] == events[1] and len(events[0]) > 50
        assert events[0] == list(range(events[0][0], events[0][0] + len(events[0])))


@pytest.mark.timeout(180)
def test_a_client_that_does_not_read_is_dropped_and_nobody_notices(daemon, session):
    """50,000 events: the one who does not read costs its bounded queue, the others get all of them in order."""
    pieces = 50_000
    stuck = Bridge(daemon.session_socket(session), read=False)
    with Bridge(daemon.session_socket(session)) as client:
        before = proc.rss(daemon.pid)
        client.send({"type": "prompt", "id": 1, "message": f"@stream {pieces} of 40 bytes", "stream": True})
        text, end = client.stream(1, timeout=120)
        assert end["success"] is True and len(text) >= pieces * 40
        client.event("agent_settled", timeout=60)
        seqs = [r["seq"] for r in client.seen if r["type"] == "event"]
        assert seqs == list(range(seqs[0], seqs[0] + len(seqs)))
        daemon.wait_log("client .* is dropped: the client does not read", timeout=30)
        assert proc.rss(daemon.pid) - before < 64 << 20
        # It finds out why, if it looks at last, and the session goes on.
        stuck.socket.settimeout(DEADLINE)
        received = b""
        try:
            while data := stuck.socket.recv(1 << 16):
                received += data
        except OSError:
            pass
        assert len(received) < 16 << 20
        assert client.ask("get_state")["isIdle"] is True
    stuck.close()


@pytest.mark.timeout(120)
def test_a_client_that_does_not_read_its_own_stream_does_not_hold_up_the_session(daemon, session):
    """Its model waits for it a little, because it may only be slow; then the session goes on without it."""
    stuck = Bridge(daemon.session_socket(session), read=False)
    with Bridge(daemon.session_socket(session)) as client:
        stuck.send({"type": "prompt", "message": "@stream 30000 of 100 bytes", "stream": True})
        client.event("agent_start")
        daemon.wait_log("client .* is dropped: the client does not read", timeout=45)
        client.event("agent_settled", timeout=45)
        assert client.ask("get_state")["isIdle"] is True
    stuck.close()


def test_ten_thousand_requests_without_reading(daemon, session):
    rude = Bridge(daemon.session_socket(session), read=False)
    rude.socket.settimeout(1)
    line = b'{"type":"get_state","id":1}\n'
    try:
        for _ in range(100):
            rude.send_bytes(line * 100)
    except OSError:
        pass  # It was dropped, or is not read any more itself.
    with Bridge(daemon.session_socket(session)) as client:
        waits = []
        for _ in range(50):
            begun = time.monotonic()
            client.ask("ping")
            waits.append(time.monotonic() - begun)
        assert sorted(waits)[45] < 0.5
    rude.close()


def test_clients_come_and_go(daemon, session):
    """Threads and file descriptors of clients that left are given back."""
    threads, files = len(proc.threads(daemon.pid)), proc.open_files(daemon.pid)
    for n in range(60):
        client = Bridge(daemon.session_socket(session), read=n % 2 == 0)
        if n % 3 == 0:
            client.send({"type": "ping"})
        client.close()
    eventually(lambda: len(proc.threads(daemon.pid)) <= threads, "the threads are gone")
    eventually(lambda: proc.open_files(daemon.pid) <= files, "the file descriptors are closed")


def test_without_file_descriptors_newcomers_are_refused_and_nothing_spins(daemon, session):
    _, hard = resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE)
    with Bridge(daemon.socket) as client:
        create = {"body": "@echo x", "cwd": "/", "persist": False, **OFFLINE}
        names = (f"may-be-{n}" for n in itertools.count())

        def nothing_fits():
            """A file that was only open for a moment when the limit was set leaves a place for one more."""
            resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (proc.open_files(daemon.pid), hard))
            response = client.exchange("session", sessionId=next(names), **create)
            with Bridge(daemon.session_socket(session)) as late:
                hello = late.hello
            refused = not response["success"] and hello["type"] == "bridge_error"
            return refused and (response["code"], hello["error"][:4])

        assert eventually(nothing_fits, "newcomers are refused") == ("busy", "busy")
        before = proc.cpu_seconds(daemon.pid)
        # However many come meanwhile.
        waiting = [Bridge(daemon.socket, read=False) for _ in range(3)]
        time.sleep(1)
        assert proc.cpu_seconds(daemon.pid) - before < 0.2
        assert client.ask("ping")
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (hard, hard))
        assert client.exchange("session", sessionId="fits", **create)["success"]
        with Bridge(daemon.session_socket("fits")) as again:
            assert again.hello["type"] == "bridge_hello"
        for rude in waiting:
            rude.close()


def test_there_is_a_bound_on_clients(daemon, session):
    clients = []
    try:
        for _ in range(256):
            clients.append(Bridge(daemon.session_socket(session)))
        with Bridge(daemon.session_socket(session)) as late:
            assert late.hello["type"] == "bridge_error" and late.hello["error"].startswith("busy: 256 clients")
            with pytest.raises(BridgeClosed):
                late.record()
        clients.pop().close()

        def served():
            with Bridge(daemon.session_socket(session)) as again:
                return again.hello["type"] == "bridge_hello"

        eventually(served, "there is room again")
    finally:
        for client in clients:
            client.close()
