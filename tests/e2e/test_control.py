"""Control of a session over NATS: one subject for each verb."""

import json

import pytest

from support.bus import ERROR_CODE, NoResponders
from support.model_script import Gate, ToolCall
from support.waiting import eventually


class Control:
    def __init__(self, daemon, session="worker"):
        self.daemon, self.session = daemon, session

    def ask(self, verb, payload=b""):
        message = self.daemon.bus.ask(f"{self.daemon.subject(self.session)}.{verb}", payload)
        assert ERROR_CODE not in (message.headers or {}), message.data
        return json.loads(message.data)

    def refused(self, verb, payload=b""):
        message = self.daemon.bus.ask(f"{self.daemon.subject(self.session)}.{verb}", payload)
        return int(message.headers[ERROR_CODE]), json.loads(message.data)["error"]


@pytest.fixture
def control(daemon, model):
    model.script("hello")
    daemon.session("worker", "hi").text()
    return Control(daemon)


@pytest.fixture
def busy(daemon, model, control):
    """A prompt that calls a tool, held before the model goes on."""

    class Busy:
        gate = Gate()

    model.script([Busy.gate, ToolCall("bash", {"command": "true"})], "after", "last")
    Busy.stream = daemon.prompt("worker", "go")
    Busy.gate.wait_reached()
    return Busy


def test_steering_reaches_the_running_prompt(model, control, busy):
    steered = control.ask("steer", {"prompt": "turn left", "from": "me"})
    assert steered == {"deliveredAs": "steer", "idleBeforeSend": False}
    assert control.ask("follow_up", "and then rest") == {"deliveredAs": "followUp", "idleBeforeSend": False}
    busy.gate.open()
    assert busy.stream.text() == "afterlast"
    assert model.requests[-1].prompts[-2:] == ["turn left", "and then rest"]


def test_steering_an_idle_session_is_a_prompt(daemon, model, control):
    model.script("done")
    assert control.ask("steer", "go")["idleBeforeSend"] is True
    daemon.wait_session("worker", lambda facts: facts["prompts"] == 2 and not facts["activeRequest"], "it is done")
    assert model.requests[-1].prompts[-1] == "go"


def test_abort_ends_the_running_prompt(control, busy):
    state = control.ask("abort")
    assert (state["sessionId"], state["isIdle"]) == ("worker", True)
    assert busy.stream.failure().code == 500
    assert control.ask("abort")["isIdle"] is True


def test_abort_needs_no_answer(daemon, control, busy):
    daemon.bus.publish(f"{daemon.subject('worker')}.abort")
    assert busy.stream.failure().code == 500


def test_clear_forgets_what_waits(control, busy):
    control.ask("steer", "one")
    control.ask("follow_up", "two")
    assert control.ask("clear") == {"steering": ["one"], "followUp": ["two"]}
    busy.gate.open()
    assert busy.stream.text() == "after"


def test_history_tells_what_happened(control):
    document = control.ask("history", {"limit": 3})
    assert len(document["events"]) == 3
    numbers = [event["seq"] for event in document["events"]]
    assert numbers == sorted(numbers)
    since = control.ask("history", {"sinceSeq": numbers[0]})
    assert [event["seq"] for event in since["events"]][:2] == numbers[1:]


def test_configure_and_extend(daemon, control):
    changed = control.ask("configure", {"model": "scripted/thinker", "thinkingLevel": "high", "name": "A name"})
    assert (changed["model"]["id"], changed["thinkingLevel"], changed["sessionName"]) == ("thinker", "high", "A name")
    assert daemon.inspect("worker")["model"] == "scripted/thinker"
    assert control.ask("extend", {"maxLifetime": 7200}) == {"maxLifetime": 7200.0, "remainingLifetime": 7200.0}
    assert 7190 <= daemon.inspect("worker")["remainingLifetime"] <= 7200
    assert control.ask("extend", {"max_lifetime_s": 0})["remainingLifetime"] is None


def test_what_cannot_be_done_is_refused_with_a_code(control):
    for verb, payload, expected in [
        ("steer", b"", (400, "bad_request")),
        ("history", b"{", (400, "invalid_json")),
        ("answer", {"requestId": "q"}, (400, "invalid_request")),
        ("answer", {"requestId": "q", "answers": []}, (404, "not_found")),
        ("reject", {"requestId": "q"}, (404, "not_found")),
        ("configure", {"model": "no/such"}, (400, "bad_request")),
        ("configure", {"thinkingLevel": "huge"}, (400, None)),
        ("configure", {"events": "yes"}, (400, "invalid_request")),
        ("extend", {"maxLifetime": "long"}, (400, "invalid_request")),
        ("explode", b"", (404, "unknown_verb")),
    ]:
        status, code = control.refused(verb, payload)
        assert (status, code) == expected or (status, None) == expected, (verb, payload, code)


def test_the_endpoints_count(daemon, control):
    control.ask("clear")
    control.refused("extend")
    instance = daemon.inspect("worker")["instanceId"]
    stats = json.loads(daemon.bus.ask(f"$SRV.STATS.pi-exec.{instance}").data)
    counted = {endpoint["name"]: (endpoint["num_requests"], endpoint["num_errors"]) for endpoint in stats["endpoints"]}
    assert (counted["clear"], counted["extend"], counted["abort"]) == ((1, 0), (1, 1), (0, 0))


def test_nobody_answers_for_a_stopped_session(daemon, control):
    daemon.stop_session("worker")
    with pytest.raises(NoResponders):
        control.ask("abort")


# Events.


def events_until(stream, name):
    found = []
    while not found or found[-1]["event"] != name:
        message = stream.message()
        event = json.loads(message.data)
        assert message.subject.split(".")[-1] == event["event"]
        found.append(event)
    return found


def test_events_are_published_where_enabled(daemon, model):
    events = daemon.bus.listen(f"agents.ev.{daemon.owner}.worker.>")
    model.script("hello", "quiet")
    daemon.session("worker", "hi", events=True).text()
    seen = events_until(events, "agent_settled")
    assert [event["seq"] for event in seen] == list(range(seen[0]["seq"], seen[0]["seq"] + len(seen)))
    names = [event["event"] for event in seen]
    assert {"input", "agent_start", "message_update", "message_end", "agent_end"} <= set(names)
    assert all(event["session"] == "worker" for event in seen)
    text = "".join(e["data"]["assistantMessageEvent"].get("delta", "") for e in seen if e["event"] == "message_update")
    assert text == "hello"
    events_until(events, "settled")
    control = Control(daemon)
    control.ask("configure", {"events": False})
    daemon.prompt("worker", "more").text()
    daemon.list()
    daemon.bus.flush()
    assert events.pending() == 0
    model.script("loud")
    control.ask("configure", {"events": True})
    daemon.prompt("worker", "more").text()
    assert events_until(events, "agent_settled")[0]["seq"] > seen[-1]["seq"]


def test_events_are_off_unless_the_daemon_is_told_otherwise(new_daemon, model):
    model.answer(lambda request: "ok")
    for configured, wanted, published in [(None, None, False), (True, None, True), (True, False, False)]:
        daemon = new_daemon()
        if configured is not None:
            daemon.config["events"] = configured
        daemon.start()
        events = daemon.bus.listen(f"agents.ev.{daemon.owner}.>")
        options = {} if wanted is None else {"events": wanted}
        daemon.session("worker", "hi", **options).text()
        if published:
            events_until(events, "agent_settled")
        daemon.stop_session("worker")
        daemon.bus.flush()
        assert published or events.pending() == 0
        daemon.close()


def test_an_event_that_is_too_large_is_told_in_short(own_server, own_bus, new_daemon, model):
    server = own_server("max_payload: 4096")
    bus = own_bus(server.url)
    daemon = new_daemon(server.url, bus).start()
    events = bus.listen(f"agents.ev.{daemon.owner}.worker.message_end")
    model.script("x" * 6000)
    daemon.session("worker", "hi", events=True).text()
    texts = [json.loads(events.message().data) for _ in range(2)]
    assert "truncated" not in texts[0]
    assert texts[1]["truncated"] is True and texts[1]["originalBytes"] > 4096
    assert texts[1]["seq"] > texts[0]["seq"]


def test_a_request_for_settings_that_are_no_switches_is_refused(daemon):
    refusal = daemon.refusal({"sessionMode": "session", "sessionId": "s", "body": "x", "cwd": "/", "events": "yes"})
    assert (refusal.error, refusal.code) == ("invalid_request", 400)
    eventually(lambda: daemon.session_ids() == [], "no session was made")
