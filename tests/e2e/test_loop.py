"""The agent loop as its listeners see it: the order of events, messages that reach a running prompt, and abort at any
moment."""

import time

import pytest

from support import proc
from support.bridge import Bridge
from support.model_script import Failure, Gate, Text, ToolCall
from support.waiting import eventually

# An abort is answered within this time, whatever is going on; seconds. The target is 0.3 on an idle machine.
PROMPTLY = 5.0
OVERLOADED = Failure(529, "overloaded")
# A tool that runs until the test says otherwise.
WAIT = "touch begun; while [ ! -e go ]; do sleep 0.01; done; echo waited"


@pytest.fixture
def client(daemon, model):
    """A listener on the session `s`, which has answered its first prompt."""
    model.script("hello")
    daemon.session("s", "hi").text()
    with Bridge(daemon.session_socket("s")) as bridge:
        bridge.wait_idle()
        yield bridge


@pytest.fixture
def settings(daemon):
    def write(**fields):
        daemon.write_agent_file("settings.json", {"retry": {"baseDelayMs": 20}, **fields})

    return write


def names(client, begin="agent_start"):
    """The names of the events so far, from the first of that name on, without the pieces of messages."""
    events = [record for record in client.seen if record["type"] == "event"]
    found = [event["event"] for event in events if event["event"] not in ("message_update", "tool_execution_update")]
    return found[found.index(begin) :]


def told(client, name):
    return [record["data"] for record in client.seen if record["type"] == "event" and record["event"] == name]


def settle(client):
    """Waits for the end of the run; returns the event's data."""
    return client.event("agent_settled")["data"]


def begun(daemon):
    eventually((daemon.cwd / "begun").exists, "the tool runs")


def let_go(daemon):
    (daemon.cwd / "go").touch()


MESSAGE = ["message_start", "message_end"]
TOOL = ["tool_execution_start", "tool_execution_end"]


def test_the_order_of_events_with_one_tool(client, model):
    model.script([Text("I look. "), ToolCall("bash", {"command": "echo found"})], "done")
    client.ask("prompt", message="go")
    assert settle(client)["aborted"] is False
    assert names(client) == [
        "agent_start", "turn_start", *MESSAGE, *MESSAGE, *TOOL, *MESSAGE, "turn_end",
        "turn_start", *MESSAGE, "turn_end", "agent_end", "agent_settled",
    ]
    roles = [data["message"]["role"] for data in told(client, "message_end")]
    assert roles[-4:] == ["user", "assistant", "toolResult", "assistant"]


def test_tools_end_as_they_are_done_and_their_results_stay_in_order(client, model, daemon):
    """The first of three calls ends last; the third fails before it begins."""
    calls = [
        ToolCall("bash", {"command": WAIT}, id="a"),
        ToolCall("bash", {"command": "echo second"}, id="b"),
        ToolCall("fly", {}, id="c"),
    ]
    model.script(calls, "done")
    client.ask("prompt", message="go")
    client.event("tool_execution_end", where=lambda event: event["data"]["toolCallId"] == "b")
    let_go(daemon)
    settle(client)
    starts, ends = ([data["toolCallId"] for data in told(client, f"tool_execution_{kind}")] for kind in ("start", "end"))
    assert starts == ["a", "b", "c"] and sorted(ends) == starts
    assert ends[-1] == "a"
    assert [text for text, _ in model.requests[-1].tool_results] == ["waited\n", "second\n", "Tool fly not found"]


def test_a_retry_is_told(client, model):
    model.script(OVERLOADED, OVERLOADED, "at last")
    client.ask("prompt", message="go")
    settle(client)
    again = ["message_start", "message_end", "turn_end", "agent_end", "auto_retry_start", "agent_start", "turn_start"]
    assert names(client) == [
        "agent_start", "turn_start", *MESSAGE, *again, *again, "message_start", "auto_retry_end", "message_end",
        "turn_end", "agent_end", "agent_settled",
    ]
    starts = told(client, "auto_retry_start")
    assert [(data["attempt"], data["maxAttempts"]) for data in starts] == [(1, 3), (2, 3)]
    assert [data["willRetry"] for data in told(client, "agent_end")] == [True, True, False]
    (end,) = told(client, "auto_retry_end")
    assert (end["success"], end["attempt"]) == (True, 2)


def test_retries_that_come_to_nothing_are_told(client, model):
    model.answer(lambda _request: OVERLOADED)
    client.ask("prompt", message="go")
    settle(client)
    (end,) = told(client, "auto_retry_end")
    assert (end["success"], end["attempt"]) == (False, 3) and "overloaded" in end["finalError"]


def test_a_steering_message_reaches_the_model_after_the_tools(client, model, daemon):
    model.script([ToolCall("bash", {"command": WAIT}), ToolCall("bash", {"command": "echo other"})], "turned")
    client.ask("prompt", message="go")
    begun(daemon)
    assert client.ask("steer", message="rather turn left")["deliveredAs"] == "steer"
    let_go(daemon)
    settle(client)
    # No call is skipped, and the message comes behind the results.
    request = model.requests[-1]
    assert [text for text, _ in request.tool_results] == ["waited\n", "other\n"]
    assert request.prompts == ["hi", "go", "rather turn left"]
    assert len(model.requests) == 3


@pytest.mark.parametrize(("mode", "turns"), [("one-at-a-time", 2), ("all", 1)])
def test_steering_messages_are_taken_by_the_mode_of_their_queue(client, model, daemon, settings, mode, turns):
    settings(steeringMode=mode)
    model.script([ToolCall("bash", {"command": WAIT})], *["noted"] * turns)
    client.ask("prompt", message="go")
    begun(daemon)
    for message in ("left", "right"):
        client.ask("steer", message=message)
    let_go(daemon)
    settle(client)
    taken = [request.prompts[2:] for request in model.requests[2:]]
    assert taken == ([["left"], ["left", "right"]] if turns == 2 else [["left", "right"]])


@pytest.mark.parametrize(("mode", "turns"), [("one-at-a-time", 2), ("all", 1)])
def test_follow_ups_wait_until_the_run_would_stop(client, model, daemon, settings, mode, turns):
    settings(followUpMode=mode)
    model.script([ToolCall("bash", {"command": WAIT})], "done", *["followed"] * turns)
    client.ask("prompt", message="go")
    begun(daemon)
    for message in ("first", "second"):
        client.ask("follow_up", message=message)
    let_go(daemon)
    settle(client)
    taken = [request.prompts[2:] for request in model.requests[2:]]
    assert taken == ([[], ["first"], ["first", "second"]] if turns == 2 else [[], ["first", "second"]])
    assert names(client).count("agent_settled") == 1


def test_steering_comes_before_follow_ups(client, model, daemon):
    model.script([ToolCall("bash", {"command": WAIT})], "steered", "followed")
    client.ask("prompt", message="go")
    begun(daemon)
    client.ask("follow_up", message="later")
    client.ask("steer", message="now")
    let_go(daemon)
    settle(client)
    assert model.requests[2].prompts[2:] == ["now"]
    assert model.requests[3].prompts[2:] == ["now", "later"]
    # Whoever shows the queues is told of every change.
    queues = [(data["steering"], data["followUp"]) for data in told(client, "queue_update")]
    assert queues == [([], ["later"]), (["now"], ["later"]), ([], ["later"]), ([], [])]


def test_a_message_that_steers_is_part_of_the_same_answer(client, model, daemon):
    """The caller of the prompt gets the text of the whole run."""
    model.script(["one ", ToolCall("bash", {"command": WAIT})], "two")
    client.ask("subscribe", enabled=False)
    stream = daemon.prompt("s", "go")
    begun(daemon)
    client.ask("steer", message="and?")
    let_go(daemon)
    assert stream.text() == "one two"


def abort(client):
    """Aborts; returns how long the answer took, in seconds."""
    begin = time.monotonic()
    state = client.ask("abort")
    assert state["isIdle"] is True
    assert settle(client)["aborted"] is True
    return time.monotonic() - begin


def test_abort_while_an_answer_streams(client, model):
    gate = Gate()
    model.script(["half a ", gate, "sentence"])
    client.ask("prompt", message="go")
    gate.wait_reached()
    client.event("message_update")
    assert abort(client) < PROMPTLY
    assert model.requests[-1].left.wait(5), "the request was given up"
    # What was said is kept, and no model gets to see it.
    model.script("fresh")
    client.ask("prompt", message="again")
    settle(client)
    assert "half a" not in str(model.requests[-1].conversation)
    messages = [data["message"] for data in told(client, "message_end")]
    assert [message["stopReason"] for message in messages if message["role"] == "assistant"] == ["aborted", "stop"]


def test_abort_while_the_model_says_nothing(client, model):
    gate = Gate()
    model.script([gate, "late"])
    client.ask("prompt", message="go")
    gate.wait_reached()
    assert abort(client) < PROMPTLY


def test_abort_while_a_tool_runs(client, model, daemon):
    model.script([ToolCall("bash", {"command": "sh -c 'echo $$ > pid; touch begun; sleep 60' & wait"})])
    client.ask("prompt", message="go")
    begun(daemon)
    assert abort(client) < PROMPTLY
    pid = int((daemon.cwd / "pid").read_text())
    eventually(lambda: not proc.alive(pid), "the tool's programs are gone")
    # The model hears of the call that was cut short when it is asked again.
    model.script("fresh")
    client.ask("prompt", message="again")
    settle(client)
    assert len(model.requests[-1].tool_results) == 1


def test_abort_while_waiting_for_a_retry(client, model, settings):
    settings(retry={"baseDelayMs": 60_000})
    model.script(OVERLOADED)
    client.ask("prompt", message="go")
    client.event("auto_retry_start")
    assert abort(client) < PROMPTLY
    (end,) = told(client, "auto_retry_end")
    assert (end["success"], end["finalError"]) == (False, "Retry cancelled")
    assert len(model.requests) == 2


def test_abort_while_waiting_because_of_anothers_limit(client, model, daemon):
    """The pause that a limit imposes on all who use a key."""
    model.script(Failure(429, "slow down", {"Retry-After": "30"}))
    client.ask("prompt", message="go")
    client.event("auto_retry_start")
    other = daemon.run("x")
    assert abort(client) < PROMPTLY
    other.leave()


def test_abort_during_compaction(client, model, settings):
    settings(compaction={"keepRecentTokens": 10})
    gate = Gate()
    model.script(Failure(400, "prompt is too long"), [gate, "## Goal"])
    client.ask("prompt", message="go " * 30)
    gate.wait_reached()
    client.event("compaction_start")
    assert abort(client) < PROMPTLY
    (end,) = told(client, "compaction_end")
    assert end["aborted"] is True and "result" not in end


def test_abort_leaves_waiting_messages_in_their_queues(client, model, daemon):
    model.script([ToolCall("bash", {"command": WAIT})])
    client.ask("prompt", message="go")
    begun(daemon)
    client.ask("follow_up", message="later")
    assert abort(client) < PROMPTLY
    assert client.ask("get_state")["hasPendingMessages"] is True
    assert len(model.requests) == 2


def test_steering_that_an_abort_left_over_goes_with_the_next_prompt(client, model, daemon):
    model.script([ToolCall("bash", {"command": WAIT})])
    client.ask("prompt", message="go")
    begun(daemon)
    client.ask("steer", message="rather left")
    assert abort(client) < PROMPTLY
    assert len(model.requests) == 2, "nobody answers it by itself"
    model.script("yes", "left")
    client.ask("prompt", message="again")
    settle(client)
    assert model.requests[-1].prompts[2:] == ["again", "rather left"]


def test_a_compaction_is_told(client, model, settings):
    settings(compaction={"keepRecentTokens": 10})
    model.script(Failure(400, "prompt is too long"), OVERLOADED, "## Goal\nx", "fits")
    client.ask("prompt", message="go " * 30)
    settle(client)
    assert names(client) == [
        "agent_start", "turn_start", *MESSAGE, *MESSAGE, "turn_end", "agent_end",
        "compaction_start", "summarization_retry_scheduled", "summarization_retry_attempt_start",
        "summarization_retry_finished", "compaction_end",
        "agent_start", "turn_start", *MESSAGE, "turn_end", "agent_end", "agent_settled",
    ]
    (end,) = told(client, "compaction_end")
    assert (end["reason"], end["aborted"], end["willRetry"]) == ("overflow", False, True)
    assert end["result"]["summary"] == "## Goal\nx"
    assert end["result"]["estimatedTokensAfter"] > 0
