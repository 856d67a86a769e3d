"""What clients of the side channel can ask of a session."""

import pytest

from support.bridge import Bridge
from support.model_script import Gate
from support.waiting import eventually

pytestmark = pytest.mark.any_server

OFFLINE = {"model": "offline/demo"}
LABEL = "[offline/demo: no model, a built-in script]\n"
BUSY = "@stream 2000 every 20 ms"


@pytest.fixture
def client(daemon):
    """A client of the only session, which is idle."""
    daemon.session("one", "@echo hi", **OFFLINE).text()
    with Bridge(daemon.session_socket("one")) as bridge:
        bridge.wait_idle()
        yield bridge


def test_an_unknown_id_is_not_taken_for_the_only_session(daemon):
    daemon.session("one", "@echo x", model="offline/demo").text()
    with Bridge(daemon.socket) as client:
        assert client.ask("inspect", sessionId="one")["sessionId"] == "one"
        assert client.refusal("inspect", sessionId="no-such-session") == 'no session "no-such-session"'


def test_ping_and_state(daemon, client):
    ping = client.ask("ping")
    assert ping["protocol"] == "pi-session-bridge.v1"
    assert ping["state"]["lastReason"] == "ping" and ping["state"]["sessionId"] == "one"
    state = client.ask("get_state")
    assert state["lastReason"] == "get_state" and state["isIdle"] is True and state["hasPendingMessages"] is False
    assert state["pid"] == daemon.pid and state["cwd"] == str(daemon.cwd)
    assert state["socketPath"] == str(daemon.session_socket("one"))
    assert client.exchange("state")["command"] == "get_state"


@pytest.mark.parametrize(
    ("asked", "command", "fields"),
    [
        ("send", "prompt", {"message": "@echo x"}),
        ("followUp", "follow_up", {"message": "@echo x"}),
        ("commands", "get_commands", {}),
        ("question_list", "questions", {}),
        ("question_reply", "question_reply", {"requestId": "que_none", "answers": []}),
        ("reject", "reject", {"request_id": "que_none"}),
    ],
)
def test_aliases(client, asked, command, fields):
    assert client.exchange(asked, **fields)["command"] == command


def test_emit_is_heard(client):
    assert client.ask("emit", message="hello") == {"message": "hello"}
    event = client.event("bridge_emit")
    assert event["data"]["message"] == "hello" and event["timestamp"].endswith("Z") and event["seq"] > 0
    assert client.ask("emit", message=5) == {"message": "test"}


def test_a_prompt_is_accepted_and_its_events_follow(client):
    assert client.ask("prompt", message="@echo done") == {"deliveredAs": "now", "idleBeforeSend": True}
    event = client.event("input")
    assert event["data"]["source"] == "extension"
    for name in ("agent_start", "message_start", "message_end", "agent_end", "agent_settled"):
        client.event(name)


def test_a_prompt_can_stream_its_answer(client):
    response = client.exchange("prompt", id={"my": "id"}, message="@echo done", stream=True)
    assert response["data"]["deliveredAs"] == "now"
    text, end = client.stream({"my": "id"})
    assert text == LABEL + "done" and end["success"] is True
    kinds = [r["type"] for r in client.seen if r.get("id") == {"my": "id"}]
    assert kinds[0] == "response" and kinds[-1] == "end" and set(kinds[1:-1]) == {"chunk"}


def test_a_streamed_prompt_that_fails_says_so(client):
    client.exchange("prompt", id=1, message="@fail auth", stream=True)
    _, end = client.stream(1)
    assert end["success"] is False and "401" in end["error"]


def test_streamed_prompts_queue_behind_each_other(client):
    client.exchange("prompt", id=1, message="@stream 10 every 20 ms", stream=True)
    second = client.exchange("prompt", id=2, message="@echo second", stream=True)
    assert second["data"] == {"deliveredAs": "queue", "idleBeforeSend": False}
    assert client.stream(1)[1]["success"] and client.stream(2)[0] == LABEL + "second"
    ends = [r["id"] for r in client.seen if r["type"] == "end"]
    assert ends == [1, 2]


@pytest.mark.parametrize(
    ("kind", "mode", "expected"),
    [
        ("prompt", {}, "now"),
        ("prompt", {"deliverAs": "now"}, "now"),
        ("prompt", {"deliverAs": "steer"}, "steer"),
        ("prompt", {"streamingBehavior": "follow_up"}, "followUp"),
        ("steer", {}, "steer"),
        ("steer", {"deliverAs": "now"}, "now"),
        ("follow_up", {}, "followUp"),
        ("follow_up", {"deliverAs": "nonsense"}, "followUp"),
    ],
)
def test_delivery_while_idle(client, kind, mode, expected):
    assert client.ask(kind, message="@echo x", **mode) == {"deliveredAs": expected, "idleBeforeSend": True}
    client.event("agent_settled")


def test_delivery_while_busy(client):
    client.ask("prompt", message=BUSY)
    busy = {"idleBeforeSend": False}
    assert client.ask("prompt", message="a") == {"deliveredAs": "steer", **busy}
    assert client.ask("steer", message="b") == {"deliveredAs": "steer", **busy}
    assert client.ask("prompt", message="c", deliverAs="followUp") == {"deliveredAs": "followUp", **busy}
    assert client.ask("follow_up", message="d") == {"deliveredAs": "followUp", **busy}
    event = client.event("input", where=lambda e: e["data"].get("text") == "d" or e["data"].get("textPreview") == "d")
    assert event["data"]["streamingBehavior"] == "followUp"
    # A plain message would be lost, and that is said instead of being called a success.
    assert client.refusal("prompt", message="e", deliverAs="now").startswith("busy")
    assert client.refusal("prompt", message="f", deliverAs="steer", stream=True)
    state = client.ask("get_state")
    assert state["isIdle"] is False and state["hasPendingMessages"] is True
    assert client.ask("abort")["isIdle"] is True


def test_a_missing_key_is_a_failure_and_no_silent_success(daemon, model):
    model.script("made")
    daemon.session("keyless", "start").text()
    config = daemon.agent_dir / "models.json"
    config.write_text(config.read_text().replace("sk-test-5up3r-s3cr3t", ""))
    with Bridge(daemon.session_socket("keyless")) as client:
        client.wait_idle()
        assert "No usable credentials for scripted" in client.refusal("prompt", message="x")


def test_content_may_be_parts_with_images(daemon, model):
    gate = Gate()
    model.script("made", [gate, "seen"])
    daemon.session("eyes", "start").text()
    one_pixel = "UklGRhoAAABXRUJQVlA4TA0AAAAvAAAAEAcQERGIiP4HAA=="
    image = {"type": "image", "data": one_pixel, "mimeType": "image/webp"}
    with Bridge(daemon.session_socket("eyes")) as client:
        client.wait_idle()
        client.ask("prompt", content=[{"type": "text", "text": "look"}, image, {"type": "text", "text": "here"}])
        gate.wait_reached()
        gate.open()
        client.event("agent_settled")
    assert "look\nhere" in str(model.requests[1].prompts[-1])


def test_abort_ends_the_run_and_answers_when_it_has(client):
    client.ask("prompt", id=1, message=BUSY, stream=True)
    client.event("message_update")
    state = client.ask("abort")
    assert state["isIdle"] is True and state["lastReason"] == "abort"
    _, end = client.stream(1)
    assert end["success"] is False and "aborted" in end["error"]
    # Nothing runs, and that is fine as well.
    assert client.ask("abort")["isIdle"] is True


def test_history(client):
    client.ask("subscribe", enabled=False)
    for n in range(5):
        client.ask("emit", message=f"m{n}")
    history = client.ask("history", limit=3)
    assert [e["data"]["message"] for e in history["events"]] == ["m2", "m3", "m4"]
    assert history["totalEvents"] == 3 and isinstance(history["rawSpillPath"], str)
    everything = client.ask("history", limit=None)
    assert everything["totalEvents"] > 5
    since = history["events"][0]["seq"]
    assert [e["seq"] for e in client.ask("history", sinceSeq=since)["events"]] == [since + 1, since + 2]
    assert client.ask("history", event="bridge_emit", limit="2")["totalEvents"] == 2


def test_questions_without_any(client):
    assert client.ask("questions") == {"available": True, "questions": []}
    assert "No pending question request: que_none" in client.refusal("answer", requestId="que_none", answers=[[]])
    assert "No pending question request: que_none" in client.refusal("reject", requestId=" que_none ")


def test_the_ping_command_needs_no_model(client):
    assert client.ask("prompt", message="/bridge:ping hello there") == {"deliveredAs": "now", "idleBeforeSend": True}
    names = [r["event"] for r in client.seen if r["type"] == "event"]
    assert names[-2:] == ["input", "bridge_pong"]
    pong = client.event("bridge_pong")
    assert pong["data"]["text"] == "hello there" and pong["data"]["source"] == "extension"
    client.ask("prompt", message="/bridge:ping")
    assert client.event("bridge_pong")["data"]["text"] == "pong"
    assert client.ask("inspect")["prompts"] == 1, "only the first prompt of the session counts"


def test_the_ping_command_can_be_streamed(client):
    client.exchange("prompt", id=1, message="/bridge:ping", stream=True)
    assert client.stream(1) == ("", {"type": "end", "id": 1, "success": True})


@pytest.mark.parametrize("kind", ["prompt", "steer", "follow_up"])
def test_an_unknown_command_never_reaches_the_model(client, kind):
    error = client.refusal(kind, message="/nonsense with words")
    assert "Unknown command: /nonsense" in error
    assert client.ask("inspect")["prompts"] == 1


@pytest.mark.parametrize("text", ["/etc/hosts is odd", "/tmp is full", "/ is the root", "a /b c"])
def test_text_that_only_looks_like_a_command_is_a_prompt(client, text):
    assert client.ask("prompt", message=text)["deliveredAs"] == "now"
    client.event("agent_settled")


def test_skills_and_templates_expand(daemon, model):
    skill = daemon.agent_dir / "skills/greet"
    skill.mkdir(parents=True)
    (skill / "SKILL.md").write_text("---\nname: greet\ndescription: How to greet.\n---\nSay hello to the person.\n")
    prompts = daemon.agent_dir / "prompts"
    prompts.mkdir()
    (prompts / "fix.md").write_text("---\ndescription: Fix it.\n---\nFix $1 because of $2.\n")
    model.script("made", "greeted", "fixed")
    daemon.session("words", "start").text()
    with Bridge(daemon.session_socket("words")) as client:
        client.wait_idle()
        commands = {c["name"]: c for c in client.ask("get_commands")["commands"]}
        assert commands["bridge:status"]["source"] == commands["bridge:ping"]["source"] == "extension"
        assert commands["skill:greet"]["source"] == "skill" and commands["fix"]["source"] == "prompt"
        assert commands["skill:greet"]["sourceInfo"]["path"] == str(skill / "SKILL.md")
        data = client.ask("prompt", message="/skill:greet politely")
        assert (data["expandedAs"], data["expandedCommand"]) == ("skill", "skill:greet")
        client.event("agent_settled")
        data = client.ask("prompt", message="/fix 'the door' rust")
        assert (data["expandedAs"], data["expandedCommand"]) == ("prompt", "fix")
        client.event("agent_settled")
    sent = str(model.requests[1].prompts[-1])
    assert "Say hello to the person." in sent and "politely" in sent
    assert model.requests[2].prompts[-1].strip() == "Fix the door because of rust."


def test_a_skill_is_sent_once_and_then_reminded_of(daemon, model):
    """Sessions do not share what they know, and a skill that was changed is sent again."""
    for name in ("greet", "leave"):
        path = daemon.agent_dir / f"skills/{name}/SKILL.md"
        path.parent.mkdir(parents=True)
        path.write_text(f"---\nname: {name}\ndescription: How to {name}.\n---\nThe words of {name}.\n")
    model.answer(lambda request: ["done"])
    for session in ("a", "b"):
        daemon.session(session, "start").text()

    def say(session, message):
        with Bridge(daemon.session_socket(session)) as client:
            client.wait_idle()
            client.ask("prompt", message=message)
            client.event("agent_settled")
        return model.requests[-1].prompts[-1]

    assert "The words of greet." in say("a", "/skill:greet politely")
    assert say("a", "/skill:greet again") == "skill_loaded=greet invocation=again"
    assert "The words of leave." in say("a", "/skill:leave")
    assert say("a", "/skill:leave") == "skill_loaded=leave invocation="
    assert "The words of greet." in say("b", "/skill:greet")
    greet = daemon.agent_dir / "skills/greet/SKILL.md"
    greet.write_text(greet.read_text() + "And more.\n")
    assert "And more." in say("a", "/skill:greet")
    assert say("a", "/skill:greet") == "skill_loaded=greet invocation="


def test_messages_are_seen_by_nats_and_socket_alike(daemon, client):
    """Both wires lead to one session."""
    stream = daemon.prompt("one", "@echo over NATS")
    client.event("agent_settled")
    assert stream.text() == LABEL + "over NATS"
    client.ask("prompt", message="@echo over the socket")
    client.event("agent_settled")
    assert eventually(lambda: daemon.inspect("one")["prompts"] == 3, "all three are counted")
