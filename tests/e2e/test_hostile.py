"""Requests that mean harm: each costs its sender an error, and nobody else anything."""

import json
import os
import random
import socket

import pytest

from support import proc
from support.bus import NoResponders
from support.model_script import Gate
from support.waiting import DEADLINE

MEBIBYTE = 1 << 20


@pytest.fixture
def healthy(daemon, model):
    """The daemon must work after the test as before, in the same process and without having grown much."""
    before = proc.rss(daemon.pid)
    yield daemon
    model.script("still here")
    assert daemon.run("x").text() == "still here"
    assert proc.rss(daemon.pid) - before < 64 * MEBIBYTE


BAD_JSON = {
    "empty": b"",
    "NUL": b"\0",
    "binary": bytes(range(256)),
    "not UTF-8": b'{"sessionMode":"run","body":"\xff\xfe","cwd":"/"}',
    "half a character": '{"sessionMode":"ä'.encode()[:-1],
    "NUL after the end": b'{"sessionMode":"list"}\0',
    "open string": b'{"sessionMode":"list',
    "control character": b'{"sessionMode":"li\nst"}',
    "huge number": b'{"sessionMode":' + b"9" * 10000 + b"}",
    "deep array": b"[" * 10_000,
    "deep object": b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
    "deep inside": b'{"sessionMode":"run","body":"x","cwd":"/","extra":' + b"[" * 10_000 + b"]" * 10_000 + b"}",
    "a mebibyte of blanks": b" " * (MEBIBYTE - 4096),
    "a mebibyte of brackets": b"[" * (MEBIBYTE - 4096),
}


@pytest.mark.parametrize("payload", BAD_JSON.values(), ids=BAD_JSON.keys())
def test_payloads_that_are_no_request(healthy, model, payload):
    refused = healthy.refusal(payload)
    assert refused.error in ("invalid_json", "invalid_request")
    assert refused.code == 400 and refused.terminated
    assert model.requests == []


def test_a_byte_order_mark(healthy, model):
    """Either it is read past or refused, but never a surprise."""
    message = healthy.bus.ask(healthy.intake, b'\xef\xbb\xbf{"sessionMode":"list"}')
    document = json.loads(message.data)
    assert document.get("error") == "invalid_json" or "sessions" in document


def test_keys_given_twice(healthy):
    message = healthy.bus.ask(healthy.intake, b'{"sessionMode":"list","sessionMode":"explode"}')
    document = json.loads(message.data)
    assert document.get("error") in ("invalid_json", "invalid_sessionMode") or "sessions" in document


def test_lone_surrogates(healthy, model):
    payload = json.dumps({"sessionMode": "run", "body": "a\ud800b", "cwd": str(healthy.cwd)}).encode()
    stream = healthy.bus.request(healthy.intake, payload)
    message = stream.message()
    assert json.loads(message.data)["error"] == "invalid_json"


def test_unknown_fields_are_ignored(healthy, model):
    model.script("ok")
    assert healthy.run("x", surprise={"deep": [1, 2]}, __proto__="x").text() == "ok"


@pytest.mark.parametrize("field", ["cwd", "sessionId", "model", "thinkingLevel", "from"])
def test_huge_fields(healthy, field):
    request = {"sessionMode": "session", "sessionId": "s", "body": "x", "cwd": str(healthy.cwd), field: "y" * 900_000}
    stream = healthy.bus.request(healthy.intake, request)
    message = stream.message()
    assert "error" in json.loads(message.data)
    # The echo of what was wrong is short.
    assert len(message.data) < 10_000
    assert all(len(value) < 1000 for value in message.headers.values())


@pytest.mark.parametrize("cwd", ["relative/missing", "/proc/self/root/no/such", "a\x00b", "/dev/null", "~", "*", "../" * 2000])
def test_working_directories_that_are_none(healthy, cwd):
    refused = healthy.refusal({"sessionMode": "run", "body": "x", "cwd": cwd})
    assert refused.error == "session_create_failed"


@pytest.mark.parametrize("lifetime", ["1e999", "NaN", "Infinity", "-0.5", "1e30", "18446744073709551616"])
def test_lifetimes_beyond_all_measure(healthy, model, lifetime):
    model.answer(lambda request: "ok")
    payload = f'{{"sessionMode":"session","sessionId":"s","body":"x","cwd":{json.dumps(str(healthy.cwd))},"maxLifetime":{lifetime}}}'
    stream = healthy.bus.request(healthy.intake, payload.encode())
    message = stream.message()
    if message.headers:
        assert json.loads(message.data)["error"] in ("invalid_json", "invalid_request")
    else:
        # Taken as a very long life.
        assert healthy.inspect("s")["remainingLifetime"] > 1e6


def test_header_injection(healthy):
    """What comes back in a header has no line ends of the sender's."""
    refused = healthy.refusal({"sessionMode": "x\r\nNats-Service-Error-Code: 200\r\n\r\nboo"})
    assert refused.error == "invalid_sessionMode" and refused.code == 400
    model = healthy.refusal({"sessionMode": "run", "body": "x", "cwd": "/a\r\nInjected: yes", "model": "m\r\nInjected: yes"})
    assert "Injected" not in model.headers


def test_strange_headers_on_requests(healthy, model):
    model.script("ok")
    request = {"sessionMode": "run", "body": "x", "cwd": str(healthy.cwd)}
    headers = {"Status": "503", "Nats-Service-Error-Code": "500", "X" * 200: "y" * 2000}
    assert healthy.bus.request(healthy.intake, request, headers).text() == "ok"


def test_malformed_header_block(healthy, nats_server):
    """A header block the client libraries would never send."""
    with raw_connection(nats_server, headers=True) as wire:
        for block in (b"NATS/1.0", b"garbage\r\n\r\n", b"NATS/1.0\r\nno colon\r\n: empty\r\n\r\n", b"\xff\xfe\r\n\r\n"):
            body = b'{"sessionMode":"list"}'
            wire.sendall(b"HPUB %s back %d %d\r\n%s%s\r\n" % (
                healthy.intake.encode(), len(block), len(block) + len(body), block, body))
        wire.sendall(b"PING\r\n")
        read_until(wire, b"PONG")


def test_replies_to_wildcards_and_to_itself(healthy, nats_server, model):
    with raw_connection(nats_server) as wire:
        for reply in (b">", b"*", b"a.*", b"a..b", healthy.intake.encode()):
            wire.sendall(b"PUB %s %s 2\r\n{}\r\n" % (healthy.intake.encode(), reply))
            wire.sendall(b"PUB $SRV.PING %s 0\r\n\r\n" % reply)
        wire.sendall(b"PING\r\n")
        read_until(wire, b"PONG")
    # An answer to itself is a request that nobody waits for, so it does not go round in circles.
    healthy.list()
    assert model.requests == []


def raw_connection(server, headers=False):
    wire = socket.create_connection(("127.0.0.1", server.port), timeout=DEADLINE)
    wire.recv(65536)
    options = {"verbose": False, "pedantic": False, "headers": headers, "no_responders": headers}
    wire.sendall(b"CONNECT %s\r\n" % json.dumps(options).encode())
    return wire


def read_until(wire, end):
    seen = b""
    while end not in seen:
        piece = wire.recv(65536)
        if not piece:
            return seen  # The server has had enough of us; the daemon is what the test is about.
        seen += piece
    return seen


def test_prompts_that_mean_harm(healthy, model):
    model.answer(lambda request: "ok")
    healthy.session("s", "x").text()
    large = "y" * 500_000
    assert healthy.prompt("s", large).text() == "ok"
    assert model.requests[-1].prompts[-1] == large
    # Larger than the model's window: the model is told that something is missing.
    assert healthy.prompt("s", "y" * (MEBIBYTE - 4096)).text() == "ok"
    assert "bytes are left out here" in model.requests[-1].prompts[-1]
    for payload in (b"[" * 100_000, b'{"body":' * 10_000, '{"body": "a", "body": "b"}', "\x1b[2J\x07", "error: x"):
        assert healthy.prompt("s", payload).text() == "ok"
    # Bytes that are no text: refused, or read with replacement characters.
    stream = healthy.prompt("s", b"\xff\xfe\x00binary")
    message = stream.message()
    assert message.data == b"ok" or message.data.startswith(b"error: ")
    healthy.stop_session("s")


def test_subjects_beside_the_known_ones(healthy, bus):
    for subject in (f"{healthy.intake}.nobody", f"{healthy.intake}.nobody.inspect", f"{healthy.intake}.s.x.y"):
        with pytest.raises(NoResponders):
            bus.ask(subject)


def test_a_flood_of_bad_requests_leaves_room_for_good_ones(healthy, model):
    gate = Gate()
    model.script(["working ", gate, "done"])
    stream = healthy.session("good", "x")
    stream.until("working ")
    random.seed(64)
    for _ in range(2000):
        healthy.bus.publish(healthy.intake, os.urandom(random.randint(1, 400)), reply="nobody.listens")
    gate.open()
    assert stream.text() == "working done"
    assert "good" in healthy.session_ids()
    healthy.stop_session("good")


def test_mutated_requests(healthy, model):
    """Single bytes of a good request changed, cut or doubled: an answer each, and the daemon lives."""
    model.answer(lambda request: "ok")
    random.seed(128)
    good = json.dumps({"sessionMode": "run", "body": "x", "cwd": str(healthy.cwd), "maxLifetime": 60}).encode()
    streams = []
    for _ in range(300):
        bad, place = bytearray(good), random.randrange(len(good))
        match random.randrange(3):
            case 0:
                bad[place] = random.randrange(256)
            case 1:
                del bad[place : place + random.randrange(1, 10)]
            case 2:
                bad[place:place] = bad[place : place + random.randrange(1, 10)]
        streams.append(healthy.bus.request(healthy.intake, bytes(bad)))
    for stream in streams:
        stream.message()
