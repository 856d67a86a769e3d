"""Named sessions: memory, queueing, stop, list and inspect."""

import json
from datetime import UTC, datetime

import pytest

from support.bus import NoResponders
from support.model_script import Failure, Gate, ToolCall, Usage
from support.waiting import eventually

# The fields of a session in `list`, and of what types they are.
SESSION_FIELDS = {
    "sessionId": str,
    "subject": str,
    "cwd": str,
    "model": str,
    "thinkingLevel": str,
    "state": str,
    "activeRequest": bool,
    "queuedRequests": int,
    "maxLifetime": (int, float),
    "remainingLifetime": (int, float, type(None)),
    "createdAt": str,
    "lastActivity": str,
    "prompts": int,
    "errors": int,
    "tokens": dict,
    "cost": (int, float),
    "instanceId": str,
}
INSPECT_FIELDS = {
    "queue": list,
    "currentPrompt": (dict, type(None)),
    "messages": int,
    "contextTokens": int,
    "lastError": (str, type(None)),
}


def check_shape(document, fields):
    assert set(fields) <= set(document), f"missing: {set(fields) - set(document)}"
    for name, kind in fields.items():
        assert isinstance(document[name], kind), f"{name}: {document[name]!r}"
        if kind is int:
            assert not isinstance(document[name], bool), name


def utc(text):
    """Reads the form the documents promise: UTC, milliseconds, Z."""
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)


def test_a_session_remembers(daemon, model):
    model.script("I will.", "It was 417.", "Yes.")
    assert daemon.session("memory", "Remember 417").text() == "I will."
    assert daemon.prompt("memory", "Which number?").text() == "It was 417."
    assert daemon.prompt("memory", "Sure?").text() == "Yes."
    assert model.requests[2].conversation == [
        ("user", "Remember 417"),
        ("assistant", "I will."),
        ("user", "Which number?"),
        ("assistant", "It was 417."),
        ("user", "Sure?"),
    ]


@pytest.mark.parametrize(
    ("payload", "prompt"),
    [
        ("plain text", "plain text"),
        ({"body": "in body"}, "in body"),
        ({"from": "me", "body": "with from"}, "with from"),
        ({"prompt": "in prompt"}, "in prompt"),
        ({"body": "body wins", "prompt": "over prompt"}, "body wins"),
        # What is no request object is the prompt itself.
        ('{"other": "field"}', '{"other": "field"}'),
        ('{"body": 5}', '{"body": 5}'),
        ("[1, 2]", "[1, 2]"),
        ('"a JSON string"', '"a JSON string"'),
        ("{broken", "{broken"),
        ("  spaces stay  ", "  spaces stay  "),
    ],
)
def test_forms_of_a_prompt(daemon, model, payload, prompt):
    model.script("made", "heard")
    daemon.session("forms", "start").text()
    assert daemon.prompt("forms", payload).text() == "heard"
    assert model.requests[1].prompts[-1] == prompt


@pytest.mark.parametrize("payload", ["", "  \n\t ", {"body": ""}, {"body": " \n"}, {"prompt": ""}])
def test_a_blank_prompt_is_an_error_and_asks_no_model(daemon, model, payload):
    model.script("made")
    daemon.session("blank", "start").text()
    stream = daemon.prompt("blank", payload)
    failed = stream.failure()
    assert failed.text.startswith("error: ") and failed.code == 400
    daemon.assert_nothing_follows(stream)
    assert len(model.requests) == 1
    assert daemon.inspect("blank")["prompts"] == 1


def test_a_session_is_there_before_its_first_prompt_runs(daemon, model):
    gate = Gate()
    model.script([gate, "first"], "second")
    first = daemon.session("early", "one")
    gate.wait_reached()
    assert daemon.session_ids() == ["early"]
    facts = daemon.inspect("early")
    assert facts["state"] == "running" and facts["activeRequest"] is True
    # It takes prompts already, which wait for their turn.
    second = daemon.prompt("early", "two")
    daemon.wait_session("early", lambda facts: facts["queuedRequests"] == 1, "the second prompt is queued")
    gate.open()
    assert first.text() == "first"
    assert second.text() == "second"
    facts = daemon.wait_session("early", lambda facts: facts["state"] == "idle", "the session is idle")
    assert facts["activeRequest"] is False and facts["queuedRequests"] == 0


def test_prompts_of_one_session_run_one_at_a_time_in_order(daemon, model):
    gate = Gate()
    model.script([gate, "0"])
    model.answer(lambda request: request.prompts[-1])
    streams = [daemon.session("serial", "0")]
    gate.wait_reached()
    streams += [daemon.prompt("serial", str(number)) for number in range(1, 11)]
    daemon.wait_session("serial", lambda facts: facts["queuedRequests"] == 10, "ten prompts are queued")
    assert len(model.requests) == 1
    gate.open()
    # Each caller gets its own answer, and nothing of the others'.
    assert [stream.text() for stream in streams] == [str(number) for number in range(11)]
    assert model.requests[-1].prompts == [str(number) for number in range(11)]
    daemon.assert_nothing_follows(*streams)


def test_sessions_do_not_wait_for_each_other(daemon, model):
    gate = Gate()
    model.script([gate, "slow"])
    slow = daemon.session("slow", "x")
    gate.wait_reached()
    model.script("fast")
    assert daemon.session("fast", "y").text() == "fast"
    gate.open()
    assert slow.text() == "slow"


def test_fifty_sessions_at_once_keep_their_memories_apart(daemon, model):
    """Every answer names all the prompts its session has seen."""
    model.answer(lambda request: " ".join(request.prompts))
    names = [f"s{number}" for number in range(50)]
    created = [daemon.session(name, f"{name}-secret") for name in names]
    assert [stream.text() for stream in created] == [f"{name}-secret" for name in names]
    follow_ups = [daemon.prompt(name, f"{name}-more") for name in names]
    assert [stream.text() for stream in follow_ups] == [f"{name}-secret {name}-more" for name in names]
    assert sorted(daemon.session_ids()) == sorted(names)


def test_a_full_queue_refuses_at_once(new_daemon, model):
    daemon = new_daemon().start("--max-queue", "2")
    gate = Gate()
    model.script([gate, "running"], "a", "b")
    running = daemon.session("full", "x")
    gate.wait_reached()
    queued = [daemon.prompt("full", name) for name in "ab"]
    daemon.wait_session("full", lambda facts: facts["queuedRequests"] == 2, "the queue is full")
    refused = daemon.prompt("full", "c")
    failed = refused.failure()
    assert failed.code == 429 and failed.text.startswith("error: queue_full")
    gate.open()
    assert [stream.text() for stream in (running, *queued)] == ["running", "a", "b"]
    daemon.assert_nothing_follows(refused)


def test_the_queue_holds_32_by_default(daemon, model):
    gate = Gate()
    model.answer(lambda request: [gate, "ok"])
    streams = [daemon.session("deep", "x")]
    gate.wait_reached()
    streams += [daemon.prompt("deep", str(number)) for number in range(32)]
    daemon.wait_session("deep", lambda facts: facts["queuedRequests"] == 32, "32 prompts are queued")
    assert daemon.prompt("deep", "one too many").failure().code == 429
    gate.open()
    assert {stream.text() for stream in streams} == {"ok"}


def test_a_failed_first_prompt_keeps_the_session(daemon, model):
    model.script(Failure(400, {"error": {"type": "invalid_request_error", "message": "no way"}}), "better")
    failed = daemon.session("tough", "x").failure()
    assert failed.text.startswith("error: ") and "no way" in failed.text
    assert daemon.session_ids() == ["tough"]
    assert daemon.prompt("tough", "again").text() == "better"


def test_stop_ends_a_session_and_frees_its_name(daemon, model, bus):
    model.script("one", "two")
    daemon.session("brief", "first life").text()
    assert daemon.stop_session("brief") == {"ok": True, "sessionId": "brief"}
    assert daemon.list()["sessions"] == []
    for subject in (daemon.subject("brief"), daemon.subject("brief") + ".inspect"):
        with pytest.raises(NoResponders):
            bus.ask(subject, "anybody there?")
    daemon.session("brief", "second life").text()
    assert model.requests[1].conversation == [("user", "second life")]


def test_stop_cuts_running_and_waiting_streams_before_it_answers(daemon, model, bus):
    gate = Gate()
    model.script(["half a sen", gate])
    running = daemon.session("cut", "x")
    running.until("half a sen")
    waiting = daemon.prompt("cut", "y")
    daemon.wait_session("cut", lambda facts: facts["queuedRequests"] == 1, "one prompt waits")
    assert daemon.stop_session("cut")["ok"] is True
    bus.flush()
    # Everything was sent before the answer to stop: nothing of it may still be on its way.
    for stream in (running, waiting):
        assert stream.pending() == 2
        assert stream.failure().text == "error: session stopped"
    assert model.requests[0].left.wait(5), "the request to the model was not given up"
    assert len(model.requests) == 1
    gate.open()
    daemon.assert_nothing_follows(running, waiting)


def test_list_describes_a_session(daemon, model, bus):
    before = datetime.now(UTC)
    usage = Usage(input=1000, output=200, cache_read=500, cache_write=100)
    model.script(["hi", usage], ["there", usage])
    sub = daemon.cwd / "sub"
    sub.mkdir()
    daemon.session("facts", "x", cwd=str(sub), maxLifetime=600, **{"from": "tester"}).text()
    daemon.prompt("facts", "y").text()
    daemon.wait_session("facts", lambda facts: facts["state"] == "idle", "the session is idle")
    (facts,) = daemon.list()["sessions"]
    check_shape(facts, SESSION_FIELDS)
    expected = {
        "sessionId": "facts",
        "subject": f"{daemon.intake}.facts",
        "cwd": str(sub),
        "model": "scripted/one",
        "thinkingLevel": "off",  # The model cannot think.
        "state": "idle",
        "activeRequest": False,
        "queuedRequests": 0,
        "maxLifetime": 600,
        "prompts": 2,
        "errors": 0,
        "tokens": {"input": 2000, "output": 400, "cacheRead": 1000, "cacheWrite": 200, "total": 3600},
        "from": "tester",
    }
    assert {name: facts[name] for name in expected} == expected
    # Per million: input 3, output 15, cache read 0.3, cache write 3.75 dollars.
    assert facts["cost"] == pytest.approx(2 * (1000 * 3 + 200 * 15 + 500 * 0.3 + 100 * 3.75) / 1e6)
    assert 590 < facts["remainingLifetime"] <= 600
    after = datetime.now(UTC)
    # Milliseconds are cut off, so the first comparison needs room for one.
    assert before.timestamp() - 0.001 <= utc(facts["createdAt"]).timestamp()
    assert utc(facts["createdAt"]) <= utc(facts["lastActivity"]) <= after
    assert "from" not in daemon_without_from(daemon, model)


def daemon_without_from(daemon, model):
    """The facts of a session whose creator gave no name."""
    model.script("ok")
    daemon.session("anonymous", "x").text()
    return daemon.inspect("anonymous")


def test_a_lifetime_of_zero_never_ends(daemon, model):
    model.script("ok")
    daemon.session("eternal", "x", maxLifetime=0).text()
    facts = daemon.inspect("eternal")
    assert facts["maxLifetime"] == 0 and facts["remainingLifetime"] is None


def test_inspect_shows_what_a_session_does(daemon, model):
    gate = Gate()
    model.script([ToolCall("bash", {"command": "true"})], [gate, "done", Usage(input=321, output=9)], "next", "last")
    first = daemon.session("busy", "x", **{"from": "creator"})
    gate.wait_reached()
    waiting = daemon.prompt("busy", {"from": "colleague", "body": "äöü"})
    nameless = daemon.prompt("busy", "plain")
    facts = daemon.wait_session("busy", lambda facts: len(facts["queue"]) == 2, "two prompts wait")
    check_shape(facts, {**SESSION_FIELDS, **INSPECT_FIELDS})
    assert facts["queuedRequests"] == 2
    assert facts["currentPrompt"]["from"] == "creator"
    assert facts["currentPrompt"]["toolCalls"] == 1
    assert facts["currentPrompt"]["runningMs"] >= 0
    assert facts["queue"][0]["from"] == "colleague"
    assert facts["queue"][0]["bytes"] == len("äöü".encode())
    assert facts["queue"][0]["waitingMs"] >= facts["queue"][1]["waitingMs"] >= 0
    assert facts["queue"][1].get("from") is None
    gate.open()
    for stream in (first, waiting, nameless):
        stream.text()
    facts = daemon.wait_session("busy", lambda facts: facts["state"] == "idle", "the session is idle")
    assert facts["currentPrompt"] is None and facts["queue"] == []
    # user, call, result, answer; user, answer; user, answer.
    assert facts["messages"] == 8
    assert facts["prompts"] == 3


def test_inspect_counts_errors_and_keeps_the_last(daemon, model):
    model.script("ok", Failure(400, {"error": {"message": "broken request"}}))
    daemon.session("errors", "x").text()
    assert daemon.inspect("errors")["lastError"] is None
    daemon.prompt("errors", "y").failure()
    facts = daemon.wait_session("errors", lambda facts: facts["errors"] == 1, "the error is counted")
    assert "broken request" in facts["lastError"]
    assert facts["state"] == "idle"


def test_sessions_are_limited(new_daemon, model):
    daemon = new_daemon().start("--max-sessions", "2")
    gate = Gate()
    model.answer(lambda request: [gate, "ok"])
    streams = [daemon.session(name, "x") for name in "ab"]
    model.wait_for(2)
    refused = daemon.refusal({"sessionMode": "session", "sessionId": "c", "body": "x", "cwd": str(daemon.cwd)})
    assert (refused.error, refused.code) == ("busy", 429)
    gate.open()
    for stream in streams:
        stream.text()
    daemon.stop_session("a")
    assert daemon.session("c", "x").text() == "ok"
    eventually(lambda: sorted(daemon.session_ids()) == ["b", "c"], "the new one took the place")


def test_a_cwd_is_the_folder_that_it_means(daemon):
    """Without `..`, `.` and links, on all wires, so that it is the same folder for good."""
    (daemon.cwd / "deep").mkdir()
    (daemon.cwd / "link").symlink_to(daemon.cwd / "deep")
    for name, cwd in (("dots", f"{daemon.cwd}/deep/../deep/./"), ("link", str(daemon.cwd / "link"))):
        daemon.session(name, "@echo x", cwd=cwd, model="offline/demo").text()
        assert daemon.inspect(name)["cwd"] == str(daemon.cwd / "deep")


def test_a_relative_cwd_starts_at_the_daemons_own(daemon, model):
    (daemon.cwd / "deeper").mkdir()
    model.script([ToolCall("bash", {"command": "pwd"})], "ok")
    daemon.session("relative", "x", cwd="deeper").text()
    assert daemon.inspect("relative")["cwd"] == str(daemon.cwd / "deeper")
    assert model.requests[1].tool_results[0][0] == f"{daemon.cwd / 'deeper'}\n"


def test_the_same_name_twice_at_once_makes_one_session(daemon, model):
    model.answer(lambda request: "ok")
    streams = [daemon.session("twin", str(number)) for number in range(8)]
    errors = 0
    for stream in streams:
        message = stream.message()
        if message.headers:
            assert json.loads(message.data)["error"] == "session_exists"
            errors += 1
    assert errors == 7
    assert daemon.session_ids() == ["twin"]
