"""Signed requests to two daemons of one owner: each counts once, whichever of them it comes to."""

import json

import pytest

from support.agents import prompt_subject
from support.bus import ERROR_CODE
from support.keys import Signer
from support.waiting import eventually
from test_two_daemons import MANY, Pair


@pytest.fixture
def pair(new_daemon, bus, model):
    model.answer(lambda _request: "ok")

    def signed_only():
        daemon = new_daemon(owner=daemons[0].owner) if daemons else new_daemon()
        daemon.config["minSenderTrust"] = "signed"
        daemons.append(daemon)
        return daemon

    daemons = []
    return Pair(lambda **_: signed_only(), bus)


def send(pair, subject, payload, headers=None):
    """Sends a signed request; returns its headers and the first message of its answer."""
    payload = json.dumps(payload)
    headers = headers or pair.signer.headers(subject, payload)
    message = pair.bus.ask(subject, payload, headers=headers)
    return headers, message


def spawn(pair, name):
    return f"agents.spawn.pi-exec.{pair.owner}.control", {"cwd": "/", "session_id": name}


def code(message):
    return (message.headers or {}).get(ERROR_CODE)


def test_a_request_to_the_owner_is_accepted_once(pair):
    pair.signer = Signer()
    for number in range(MANY):
        subject, payload = spawn(pair, f"s{number}")
        headers, made = send(pair, subject, payload)
        assert json.loads(made.data)["session_id"] == f"s{number}"
        # The session is gone, so that only its signature speaks against the request.
        stop = f"agents.stop.pi-exec.{pair.owner}.control"
        assert json.loads(send(pair, stop, {"session_id": f"s{number}"})[1].data)["ok"]
        for _ in range(4):
            _, again = send(pair, subject, payload, headers)
            assert code(again) == "401" and "used before" in json.loads(again.data)["message"]
    assert {pair.owner_of(f"s{number}") for number in range(MANY)} == set(pair.daemons), "both have done some"
    assert pair.ask("list")["sessions"] == []


def test_of_many_at_once_one_is_done(pair):
    pair.signer = Signer()
    for number in range(MANY):
        subject, payload = spawn(pair, f"s{number}")
        payload = json.dumps(payload)
        headers = pair.signer.headers(subject, payload)
        streams = [pair.bus.request(subject, payload, headers) for _ in range(6)]
        answers = [stream.message() for stream in streams]
        assert sorted(code(answer) or "" for answer in answers) == ["", *["401"] * 5]


def test_a_prompt_is_not_accepted_by_the_next_daemon_of_the_session(pair):
    pair.signer = Signer()
    name, moved = "worker", False
    subject = prompt_subject(pair.one, name)
    headers = None
    where = set()
    for _ in range(20):
        send(pair, *spawn(pair, name))
        if headers is None:
            headers, first = send(pair, subject, {"prompt": "go"})
            assert code(first) is None
        _, again = send(pair, subject, {"prompt": "go"}, headers)
        assert code(again) == "401"
        where.add(started_by(pair, name))
        send(pair, f"agents.stop.pi-exec.{pair.owner}.control", {"session_id": name})
        moved = len(where) == 2
        if moved:
            return
    assert moved, "the session was only ever at one of them"


def started_by(pair, name):
    """Which of both has started the session since this was last asked."""
    before = getattr(pair, "counts", [0, 0])

    def counts():
        return [sum(f"session {name} started" in line for line in daemon.log) for daemon in pair.daemons]

    eventually(lambda: counts() != before, "the session was started")
    pair.counts = counts()
    return [new > old for new, old in zip(pair.counts, before)].index(True)
