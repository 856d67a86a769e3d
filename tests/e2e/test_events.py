"""A session's events over the side channel: numbers, compact forms, history, replay and spilled payloads."""

import os
import signal
import stat

import pytest

from support.bridge import Bridge
from support.model_script import ToolCall
from support.waiting import eventually


@pytest.fixture
def session(daemon, model):
    """A session `s` that has answered its first prompt."""
    model.script("hello")
    daemon.session("s", "hi").text()
    made = []

    class Session:
        def connect(self):
            made.append(Bridge(daemon.session_socket("s")))
            return made[-1]

        def prompt(self, *turns):
            """Answers a prompt with these turns of the model."""
            model.script(*turns)
            return daemon.prompt("s", "go").text()

    yield Session()
    for client in made:
        client.close()


def events(client, name=None):
    """The events that were read so far, oldest first."""
    return [record for record in client.seen if record["type"] == "event" and name in (None, record["event"])]


def seqs(events):
    return [event["seq"] for event in events]


def test_events_are_numbered_and_the_history_has_the_same(session):
    client = session.connect()
    session.prompt("one two three")
    client.event("agent_end")
    live = events(client)
    assert seqs(live) == list(range(live[0]["seq"], live[0]["seq"] + len(live)))
    assert {event["session"] for event in live} == {"s"}
    names = [event["event"] for event in live]
    order = [names.index(name) for name in ("agent_start", "turn_start", "message_update", "turn_end", "agent_end")]
    assert order == sorted(order)
    kept = client.ask("history", sinceSeq=live[0]["seq"] - 1)["events"]
    assert kept[: len(live)] == live
    assert "gap" not in client.ask("history", sinceSeq=0)


def test_the_answer_can_be_put_together_from_its_pieces(session):
    text = "Grüße 🦀 " * 300
    client = session.connect()
    session.prompt(text)
    client.event("agent_end")
    updates = [event["data"] for event in events(client, "message_update")]
    pieces = [data["assistantMessageEvent"] for data in updates]
    assert "".join(piece.get("delta", "") for piece in pieces if piece["type"] == "text_delta") == text
    assert {data["role"] for data in updates} == {"assistant"}
    assert all(text.find(data.get("deltaPreview", "")) >= 0 for data in updates)


def test_a_large_message_keeps_its_identity_and_its_rest_in_a_file(session, daemon):
    text = "x" * 20000
    client = session.connect()
    session.prompt(text)
    client.event("agent_end")
    (live,) = [e for e in events(client, "message_end") if e["data"].get("message", {}).get("role") == "assistant"]
    assert live["truncated"] and live["originalBytes"] > 20000
    assert (live["data"]["message"]["stopReason"], live["data"]["type"]) == ("stop", "message_end")
    assert live["data"]["message"]["usage"]["totalTokens"] > 0

    def raw():
        document = client.ask("history", raw=True, event="message_end", limit=1)
        return document["events"][0].get("rawRestored") and document

    document = eventually(raw, "the payload is stored")
    (event,) = document["events"]
    assert event["data"]["message"]["content"] == [{"type": "text", "text": text}]
    assert "rawError" not in event and "rawErrors" not in document
    path = document["rawSpillPath"]
    assert os.path.dirname(path) == str(daemon.bridge_dir / "raw")
    assert event["rawEventPath"] == path
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(os.path.dirname(path)).st_mode) == 0o700
    (plain,) = client.ask("history", event="message_end", limit=1)["events"]
    assert "content" not in plain["data"]["message"] and "rawError" not in plain

    daemon.stop_session("s")
    eventually(lambda: not os.path.exists(path), "the file is removed with its session")


def test_the_file_of_a_killed_daemon_is_swept_by_the_next(session, daemon):
    client = session.connect()
    session.prompt("x" * 20000)
    path = client.ask("history", limit=1)["rawSpillPath"]
    eventually(lambda: os.path.exists(path), "the payload is stored")
    daemon.signal(signal.SIGKILL)
    daemon.wait_exit()
    assert os.path.exists(path)
    daemon.start()
    eventually(lambda: not os.path.exists(path), "the file is swept")


def test_nothing_is_spilled_while_nobody_listens(session):
    session.prompt("x" * 20000)
    client = session.connect()
    document = client.ask("history", raw=True, event="message_end", limit=1)
    (event,) = document["events"]
    assert event["rawError"].splitlines()[0] == "spill_subscriber=false"
    assert not os.path.exists(document["rawSpillPath"])


def test_a_large_result_of_a_tool_is_compact(session):
    client = session.connect()
    call = ToolCall("bash", {"command": "seq 1 5000"}, id="call-1")
    session.prompt([call], "done")
    client.event("agent_end")
    (start,) = events(client, "tool_execution_start")
    assert start["data"]["args"] == {"command": "seq 1 5000"}
    assert (start["data"]["toolName"], "truncated" in start) == ("bash", False)
    (end,) = events(client, "tool_execution_end")
    assert end["truncated"] and "result" not in end["data"]
    assert (end["data"]["toolName"], end["data"]["isError"]) == ("bash", False)
    assert end["data"]["toolUseId"] == end["data"]["toolCallId"] == start["data"]["toolCallId"]
    assert end["data"]["resultBytes"] > 8192 and len(end["data"]["resultPreview"]) <= 256
    for update in events(client, "tool_execution_update"):
        assert update["data"]["toolName"] == "bash" and "rawEventRef" not in update


def test_history_is_filtered_and_tolerates_nonsense(session):
    client = session.connect()
    for number in range(10):
        client.ask("emit", message=str(number))
    document = client.ask("history", event=" bridge_emit ", limit="3")
    assert [event["data"]["message"] for event in document["events"]] == ["7", "8", "9"]
    assert (document["totalEvents"], document["responseTruncated"]) == (3, False)
    everything = client.ask("history")["events"]
    for nonsense in ({"limit": None}, {"limit": -1}, {"limit": "x"}, {"maxBytes": "x"}, {"since": 7}, {"event": " "}):
        assert client.ask("history", **nonsense)["events"] == everything, nonsense
    time = everything[-4]["timestamp"]
    assert everything[-1]["seq"] in seqs(client.ask("history", since=time)["events"])
    assert all(event["timestamp"] >= time for event in client.ask("history", since=time)["events"])
    assert client.ask("history", since="garbage")["events"] == []
    assert seqs(client.ask("history", sinceSeq=everything[-3]["seq"])["events"]) == seqs(everything[-2:])
    small = client.ask("history", maxBytes=1)
    assert (seqs(small["events"]), small["responseTruncated"]) == ([everything[-1]["seq"]], True)


def test_a_listener_that_returns_gets_what_it_missed(session):
    client = session.connect()
    client.ask("emit", message="before")
    last = events(client)[-1]["seq"]
    client.close()
    other = session.connect()
    for number in range(5):
        other.ask("emit", message=str(number))
    back = session.connect()
    back.ask("subscribe", sinceSeq=last)
    assert [event["data"]["message"] for event in events(back, "bridge_emit")] == ["0", "1", "2", "3", "4"]
    assert events(back, "bridge_gap") == []
    other.ask("emit", message="live")
    back.event("bridge_emit", where=lambda event: event["data"]["message"] == "live")
    assert seqs(events(back, "bridge_emit")) == list(range(last + 1, last + 7)), "nothing twice"


def test_a_gap_is_told(session):
    client = session.connect()
    for number in range(600):
        client.ask("emit", message=str(number))
    last = events(client)[-1]["seq"]
    back = session.connect()
    back.ask("subscribe", sinceSeq=1)
    (gap,) = events(back, "bridge_gap")
    assert gap["data"] == {"from": 2, "to": last - 500} and gap["seq"] == last - 500
    assert seqs(events(back, "bridge_emit")) == list(range(last - 499, last + 1))
    history = client.ask("history", sinceSeq=1, maxBytes=1 << 22)
    assert history["gap"] == {"from": 2, "to": last - 500}
    assert len(history["events"]) == 500


def test_an_event_comes_before_the_response_that_it_belongs_to(session):
    client = session.connect()
    for number in range(50):
        response = client.exchange("emit", message=str(number))
        assert client.seen[-1] == response
        assert (client.seen[-2]["event"], client.seen[-2]["data"]["message"]) == ("bridge_emit", str(number))


def test_two_listeners_get_the_same_events(session):
    first, second = session.connect(), session.connect()
    session.prompt([ToolCall("bash", {"command": "echo hi"})], "done")
    for client in (first, second):
        client.event("agent_end")
    assert events(first) and events(first) == events(second)[-len(events(first)) :]
