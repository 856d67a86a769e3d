"""An answer that begins anew after some of it was sent: every wire has a mark between the two beginnings, and only there."""

import pytest

from support.agents import prompt
from support.bridge import Bridge
from support.bus import RESTART, VOID
from support.daemon import MODELS
from support.model_script import Cut, Failure, Gate, Raw, Text, Thinking, ToolCall, Unterminated

OVERLOADED = Raw('event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}\n\n')
LINE = "[The answer begins anew: attempt {}]"


@pytest.fixture
def worker(daemon, model):
    """A session that has answered its first prompt."""
    daemon.write_agent_file("settings.json", {"retry": {"baseDelayMs": 20}})
    model.script("hello")
    daemon.session("worker", "hi").text()
    return daemon


def marks(stream):
    """Where a stream began anew: the text before it, the attempt, and what is void; each mark has the line."""
    assert all(mark.data.decode() == LINE.format(mark.headers[RESTART]) for _, mark in stream.restarts)
    return [(before, mark.headers[RESTART], mark.headers[VOID]) for before, mark in stream.restarts]


@pytest.mark.parametrize("spec", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("ending", [Cut, Unterminated], ids=["cut", "no end"])
def test_a_broken_stream_is_marked_on_the_plain_wire(daemon, model, spec, ending):
    gate = Gate()
    model.script(["hel", gate, ending()], ["hel", "lo"])
    stream = daemon.run("x", model=spec)
    stream.until("hel")
    gate.open()
    assert stream.text() == "helhello"
    assert marks(stream) == [("hel", "2", "3")]


def test_each_second_beginning_has_a_mark_of_its_own(worker, model):
    """The third attempt sends nothing, the fifth request is for another answer, which begins but once."""
    model.script(["a", OVERLOADED], ["b", OVERLOADED], Failure(529, "x"), ["c", ToolCall("ls", {})], "d")
    stream = worker.prompt("worker", "x")
    assert stream.text() == "abcd"
    assert marks(stream) == [("a", "2", "1"), ("ab", "4", "1")]


def test_there_is_no_mark_where_nothing_was_sent(worker, model):
    model.script(Failure(529, "x"), [OVERLOADED], [Text("")], [Thinking("hm"), Cut()], "whole")
    stream = worker.prompt("worker", "x")
    assert (stream.text(), marks(stream)) == ("whole", [])


def test_text_of_an_earlier_turn_is_no_first_beginning(worker, model):
    model.script(["one ", ToolCall("ls", {})], [OVERLOADED], "two")
    stream = worker.prompt("worker", "x")
    assert (stream.text(), marks(stream)) == ("one two", [])
    model.script(["one ", ToolCall("ls", {})], ["hä", OVERLOADED], "two")
    stream = worker.prompt("worker", "x")
    assert (stream.text(), marks(stream)) == ("one hätwo", [("one hä", "2", "3")])


def test_a_mark_comes_before_the_tools_of_the_new_attempt(worker, model):
    model.script(["half", OVERLOADED], [ToolCall("ls", {})], "done")
    worker.bus.ask(f"agents.pi-exec.{worker.owner}.worker.configure", {"toolStatus": True})
    wire = prompt(worker, "worker", "x").ack()
    said = [data.split(":")[0] if kind == "status" else data for kind, data in wire.rest()]
    assert said == ["half", "restart", "tool_use", "tool_result", "done", "cost"] or said == [
        "half", "restart", "tool_use", "done", "tool_result", "cost",
    ]


def test_blank_text_before_an_empty_answer_is_marked_too(worker, model):
    model.script([Text(" \n")], "fine")
    stream = worker.prompt("worker", "x")
    assert stream.text() == " \nfine"
    assert marks(stream) == [(" \n", "2", "2")]


def test_an_answer_after_a_full_window_is_marked_too(daemon, model):
    """The server says in mid-answer that the prompt was too long; the model answers a summary instead."""
    daemon.write_agent_file("settings.json", {"compaction": {"keepRecentTokens": 50}})
    model.script("first")
    daemon.session("s", "hi").text()
    too_long = Raw('event: error\ndata: {"type":"error","error":{"type":"invalid_request_error","message":"prompt is too long"}}\n\n')
    model.script(["half", too_long], "## Goal\nTo test.", "whole")
    stream = daemon.prompt("s", "word " * 60)
    assert stream.text() == "halfwhole"
    assert marks(stream) == [("half", "2", "4")]


def test_the_agent_wire_has_a_status(worker, model):
    model.script(["hel", OVERLOADED], ["hel", "lo"])
    said = prompt(worker, "worker", "x").ack().rest()
    at = said.index(("status", 'restart:{"attempt":2,"voidBytes":3}'))
    texts = ["".join(data for kind, data in part if kind == "response") for part in (said[:at], said[at:])]
    assert texts == ["hel", "hello"]


def test_events_and_streams_of_the_socket_have_a_record(worker, model):
    model.script(["hel", OVERLOADED], ["hel", "lo"], [OVERLOADED], "later")
    with Bridge(worker.session_socket("worker")) as client:
        client.ask("subscribe")
        client.exchange("prompt", id=1, message="x", stream=True)
        assert client.stream(1)[0] == "helhello"
        client.event("agent_settled")
        own = [r for r in client.seen if r.get("id") == 1 and r["type"] != "response"]
        at = own.index({"type": "restart", "id": 1, "attempt": 2, "voidBytes": 3})
        texts = ["".join(r.get("data", "") for r in part) for part in (own[:at], own[at:])]
        assert texts == ["hel", "hello"]
        events = [r for r in client.seen if r["type"] == "event"]
        (mark,) = [at for at, r in enumerate(events) if r["event"] == "bridge_restart"]
        assert events[mark]["data"]["attempt"] == 2
        deltas = [[r["data"]["assistantMessageEvent"].get("delta", "") for r in part if r["event"] == "message_update"]
                  for part in (events[:mark], events[mark:])]
        assert ["".join(part) for part in deltas] == ["hel", "hello"]
        client.exchange("prompt", id=2, message="x", stream=True)
        assert client.stream(2)[0] == "later"
        assert not any(r["type"] == "restart" and r["id"] == 2 for r in client.seen)


def test_who_asks_again_under_the_same_id_gets_the_mark_in_its_place(worker, model):
    same = {"Nats-Msg-Id": "request-1"}
    gate = Gate()
    model.script(["hel", OVERLOADED], ["hel", gate, "lo"])
    first = worker.bus.request(worker.subject("worker"), "go", same)
    first.until("helhel")
    second = worker.bus.request(worker.subject("worker"), "go", same)
    second.until("helhel")
    gate.open()
    assert (first.text(), second.text()) == ("helhello", "helhello")
    # It is answered from memory when it is over.
    third = worker.bus.request(worker.subject("worker"), "go", same)
    assert third.text() == "helhello"
    assert marks(first) == marks(second) == marks(third) == [("hel", "2", "3")]
