"""Prompts for a session that has no owner at the moment: any host accepts them, and its next owner works on each once."""

import base64
import json
import signal

import pytest

from support.bus import StreamFailed
from support.fleet import CARD, PASSING
from support.waiting import eventually

# Longer than a test: nobody takes a host for gone by the clock.
FOR_GOOD = 120
# Sent to one host or the other; only the one that lives takes it.
MANY = 40


@pytest.fixture
def upper(fleet):
    fleet.model.answer(lambda request: request.prompts[-1].upper())
    return fleet


def kill(daemon):
    daemon.signal(signal.SIGKILL)
    daemon.wait_exit()


def inbox(fleet, name):
    """How many prompts wait for the session's owner."""
    subject = f"ag.in.{fleet.hosts[0].owner}.{name}"
    info = fleet.bus.ask_json("$JS.API.STREAM.INFO.AGL", {"subjects_filter": subject})
    return (info["state"].get("subjects") or {}).get(subject, 0)


def waits(fleet, name, count):
    eventually(lambda: inbox(fleet, name) == count, f"{count} prompts wait for {name}")


def ownerless(fleet, card=FOR_GOOD, **config):
    """A session `s` whose host has just died, and the host that is left, which does not take it for gone before the card goes, or
    it is told to."""
    fleet.start(fleetCardTime=card, **config)
    assert fleet.session("s", "hello").text() == "HELLO"
    owner = fleet.owner_of("s")
    (other,) = fleet.others(owner)
    eventually(lambda: fleet.has_card(owner), "it has a card")
    kill(owner)
    return owner, other


def leave(fleet, other, body, count, **fields):
    """Sends a prompt that waits then as the one of this number."""
    stream = other.session("s", body, **fields)
    waits(fleet, "s", count)
    eventually(lambda: other.session_ids() == [], "it is left")
    return stream


def test_prompts_wait_for_the_next_host_in_order(upper):
    _owner, other = ownerless(upper, CARD)
    stream = other.session("s", "again", workspace="shared")
    assert stream.text() == "AGAIN" and not stream.restarts
    assert upper.model.requests[-1].prompts == ["hello", "again"]
    waits(upper, "s", 0)


def test_what_waits_comes_first_and_in_order(upper):
    owner, other = ownerless(upper)
    streams = [leave(upper, other, body, at + 1) for at, body in enumerate(["one", "two", "three"])]
    owner.start()
    assert [stream.text() for stream in streams] == ["ONE", "TWO", "THREE"]
    assert upper.say("s", "four") == "FOUR"
    assert upper.model.requests[-1].prompts == ["hello", "one", "two", "three", "four"]
    waits(upper, "s", 0)


def test_a_host_that_was_frozen_takes_what_came_meanwhile(upper):
    upper.start(fleetCardTime=FOR_GOOD)
    assert upper.session("s", "hello").text() == "HELLO"
    owner = upper.owner_of("s")
    (other,) = upper.others(owner)
    owner.signal(signal.SIGSTOP)
    streams = []
    # The server gives requests to the frozen host as well, which answers later that the session is there.
    while not inbox(upper, "s"):
        assert len(streams) < MANY, "no prompt waits"
        streams.append(other.session("s", f"p{len(streams)}"))
        try:
            eventually(lambda: inbox(upper, "s"), "it waits", timeout=3)
        except AssertionError:
            continue
    owner.signal(signal.SIGCONT)
    answers = []
    for number, stream in enumerate(streams):
        try:
            answers.append((number, stream.text()))
        except StreamFailed as failed:
            assert "session_exists" in failed.text, failed
    ((number, text),) = answers
    assert text == f"P{number}"
    assert upper.model.requests[-1].prompts == ["hello", f"p{number}"]
    waits(upper, "s", 0)
    assert upper.has(owner, "s") and not upper.has(other, "s")


def test_what_was_taken_in_and_not_removed_is_not_worked_on_again(upper):
    """As if its host had died between the two."""
    owner, other = ownerless(upper)
    stream = leave(upper, other, "once", 1)
    subject = f"ag.in.{owner.owner}.s"
    asked = {"last_by_subj": subject}
    stored = base64.b64decode(upper.bus.ask_json("$JS.API.STREAM.MSG.GET.AGL", asked)["message"]["data"])
    owner.start()
    assert stream.text() == "ONCE"
    waits(upper, "s", 0)
    kill(owner)
    assert "seq" in upper.bus.ask_json(subject, stored)
    owner.start()
    waits(upper, "s", 0)
    assert upper.say("s", "last") == "LAST"
    assert upper.model.requests[-1].prompts == ["hello", "once", "last"]
    assert stream.pending() == 0


def test_the_same_request_is_worked_on_once(upper):
    owner, other = ownerless(upper)
    request = {"sessionMode": "session", "sessionId": "s", "body": "again", "cwd": str(upper.cwd)}
    streams = []
    for count in (1, 2):
        streams.append(other.bus.request(other.intake, request, {"Nats-Msg-Id": "one"}))
        waits(upper, "s", count)
        eventually(lambda: other.session_ids() == [], "it is left")
    owner.start()
    assert [stream.text() for stream in streams] == ["AGAIN", "AGAIN"]
    assert upper.model.requests[-1].prompts == ["hello", "again"]
    # Whoever comes later is answered from memory, by whichever host.
    for _ in range(4):
        assert other.bus.request(other.intake, request, {"Nats-Msg-Id": "one"}).text() == "AGAIN"
    assert len(upper.model.requests) == 2


@pytest.mark.parametrize("fields", [{"model": "offline/demo"}, {"rules": []}])
def test_a_request_for_more_than_a_prompt_is_no_prompt(upper, fields):
    _, other = ownerless(upper)
    assert other.session("s", "again", **fields).failure().word == "host_down"
    assert inbox(upper, "s") == 0


def test_no_more_wait_than_in_a_session(upper):
    owner, other = ownerless(upper, maxQueue=1)
    stream = leave(upper, other, "one", 1)
    assert other.session("s", "two").failure().word == "queue_full"
    owner.start()
    assert stream.text() == "ONE"


def test_what_is_too_long_to_wait_is_refused(upper):
    _, other = ownerless(upper)
    # The server takes it, and nothing that says more.
    body = "x" * (upper.bus.connection.max_payload - 1000)
    assert other.session("s", body).failure().word == "storage_error"
    assert inbox(upper, "s") == 0


def test_a_full_stream_takes_no_prompt(upper):
    owner, other = ownerless(upper)
    info = upper.bus.ask_json("$JS.API.STREAM.INFO.AGL")
    upper.bus.ask_json("$JS.API.STREAM.UPDATE.AGL", {**info["config"], "max_bytes": info["state"]["bytes"]})
    assert other.session("s", "no room").failure().word == "storage_error"
    upper.bus.ask_json("$JS.API.STREAM.UPDATE.AGL", {**info["config"], "max_bytes": -1})
    owner.start()
    assert upper.say("s", "room again") == "ROOM AGAIN"
    assert upper.model.requests[-1].prompts == ["hello", "room again"]


def test_whoever_waits_for_a_session_that_is_over_is_told_so(upper):
    """It was stopped while the prompt was stored: nobody takes it."""
    upper.start(fleetCardTime=CARD)
    gone, left = upper.hosts
    stream = upper.bus.listen(upper.bus.connection.new_inbox())
    prompt = {"id": "0123456789abcdef", "text": "anybody?", "reply": {"text": stream.inbox}}
    assert "seq" in upper.bus.ask_json(f"ag.in.{gone.owner}.over", json.dumps(prompt))
    kill(gone)
    assert stream.failure().word == "not_found"
    waits(upper, "over", 0)
    assert left.session("over", "new", workspace="shared").text() == "NEW"


def test_a_new_session_does_not_get_what_was_meant_for_another(upper):
    upper.start(1, fleetCardTime=FOR_GOOD)
    (host,) = upper.hosts
    stream = upper.bus.listen(upper.bus.connection.new_inbox())
    prompt = {"id": "0123456789abcdef", "text": "anybody?", "reply": {"text": stream.inbox}}
    assert "seq" in upper.bus.ask_json(f"ag.in.{host.owner}.s", json.dumps(prompt))
    assert upper.session("s", "new").text() == "NEW"
    assert stream.failure().word == "not_found"
    waits(upper, "s", 0)
    assert upper.model.requests[-1].prompts == ["new"]


def test_prompts_that_come_at_any_time_of_a_death_are_worked_on_once(upper):
    """Those that nobody accepted are sent again, as their callers are told to."""
    _owner, other = ownerless(upper, CARD)
    answered, refused, number = [], 0, 0
    while not upper.has(other, "s") or not answered:
        number += 1
        assert number < MANY * 10, "nobody goes on with it"
        try:
            answered.append((f"p{number}", other.session("s", f"p{number}").text()))
        except StreamFailed as failed:
            assert failed.word in PASSING or "session_exists" in failed.text, failed
            refused += 1
    assert all(text == prompt.upper() for prompt, text in answered), answered
    assert upper.say("s", "last") == "LAST"
    assert upper.model.requests[-1].prompts == ["hello", *(prompt for prompt, _ in answered), "last"]
    waits(upper, "s", 0)
