"""Sessions over a restart of the daemon: after SIGTERM, and after kill -9 at any moment."""

import json
import signal

import pytest

from support import proc
from support.bridge import Bridge
from support.model_script import Gate, ToolCall
from support.session_files import kill, messages
from support.waiting import eventually


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_sessions_are_there_again(daemon, model, how):
    model.script("I will.", "It was 417.")
    assert daemon.session("memory", "Remember 417", maxLifetime=500, name="The memory", **{"from": "ci"}).text() == "I will."
    before = daemon.inspect("memory")
    daemon.signal(how)
    daemon.wait_exit()
    daemon.start()
    (after,) = daemon.list()["sessions"]
    kept = ("sessionId", "subject", "cwd", "model", "thinkingLevel", "maxLifetime", "createdAt", "prompts", "errors",
            "tokens", "cost", "from", "name", "sessionFile", "state")
    assert {key: after[key] for key in kept} == {key: before[key] for key in kept}
    assert 0 < after["remainingLifetime"] <= before["remainingLifetime"]
    assert daemon.inspect("memory")["messages"] == before["messages"] == 2
    assert daemon.prompt("memory", "Which number?").text() == "It was 417."
    assert model.requests[-1].conversation == [
        ("user", "Remember 417"), ("assistant", "I will."), ("user", "Which number?"),
    ]
    assert daemon.inspect("memory")["prompts"] == 2


def test_a_stopped_session_stays_away(daemon, model):
    model.script("One.", "Two.")
    daemon.session("stays", "1").text()
    daemon.session("goes", "2").text()
    daemon.stop_session("goes")
    kill(daemon)
    daemon.start()
    assert daemon.session_ids() == ["stays"]
    # What was said is still there for people.
    assert len(daemon.session_files()) == 2


def test_a_session_that_expired_meanwhile_stays_away(daemon, model):
    model.script("One.", "Two.")
    daemon.session("late", "1", maxLifetime=1).text()
    daemon.session("early", "2").text()
    kill(daemon)
    row = next(daemon.state_dir.glob("late.json"))
    document = json.loads(row.read_text())
    row.write_text(json.dumps({**document, "endsAt": document["endsAt"] - 2000}))
    daemon.start()
    assert daemon.session_ids() == ["early"]


def test_nothing_is_left_of_a_run_unless_asked(daemon, model):
    model.script("Gone.", "Kept.")
    assert daemon.run("one").text() == "Gone."
    assert daemon.session_files() == []
    assert daemon.run("two", keep=True).text() == "Kept."
    assert [message["role"] for message in messages(daemon)] == ["user", "assistant"]
    kill(daemon)
    daemon.start()
    assert daemon.session_ids() == []


def test_a_session_may_be_kept_in_memory_only(daemon, model):
    model.script("One.")
    assert daemon.session("memory", "1", persist=False).text() == "One."
    assert daemon.session_files() == []
    kill(daemon)
    daemon.start()
    assert daemon.session_ids() == []


def test_an_interrupted_tool_is_closed_and_not_run_again(daemon, model):
    marker = daemon.cwd / "ran"
    command = f"echo $$ >> {marker}; sleep 600"
    model.script([ToolCall("bash", {"command": command})])
    stream = daemon.session("tool", "go", onRestart="hold")
    eventually(lambda: marker.exists() and marker.read_text(), "the tool has begun")
    shell = marker.read_text()
    kill(daemon)
    model.script("I see.")
    daemon.start()
    # The caller is still there, and hears what became of its prompt.
    message = stream.message()
    assert message.data.startswith(b"error: interrupted"), message.data
    stream.terminator()
    assert daemon.prompt("tool", "and now?").text() == "I see."
    assert marker.read_text() == shell
    roles = [message["role"] for message in messages(daemon)]
    assert roles == ["user", "assistant", "toolResult", "user", "assistant"]
    result = messages(daemon)[2]
    assert result["isError"] and result["content"][0]["text"].startswith("interrupted, outcome unknown")
    # What the tool had started ends when the next daemon comes.
    assert not proc.alive(int(shell))


def test_prompts_that_wait_are_answered_after_a_restart(daemon, model):
    gate = Gate()
    model.script([gate, "never"])
    first = daemon.session("queue", "first")
    gate.wait_reached()
    second = daemon.prompt("queue", {"body": "second", "from": "me"})
    third = daemon.prompt("queue", "third")
    daemon.wait_session("queue", lambda facts: facts["queuedRequests"] == 2, "both wait")
    kill(daemon)
    gate.open()
    model.script("To the first.", "To the second.", "To the third.")
    daemon.start()
    # Nothing had happened to the first one, so it is simply asked again.
    assert first.text() == "To the first."
    assert second.text() == "To the second."
    assert third.text() == "To the third."
    assert [message["role"] for message in messages(daemon)] == ["user", "assistant"] * 3


def test_a_template_is_expanded_once(daemon, model):
    """What a template says is not taken for another template, not even when it waits over a restart."""
    prompts = daemon.agent_dir / "prompts"
    prompts.mkdir()
    (prompts / "outer.md").write_text("/inner $1")
    (prompts / "inner.md").write_text("Not this.")
    gate = Gate()
    model.script([gate, "never"])
    daemon.session("s", "first")
    gate.wait_reached()
    with Bridge(daemon.session_socket("s")) as client:
        assert client.ask("follow_up", message="/outer it")["expandedCommand"] == "outer"
    kill(daemon)
    gate.open()
    model.script("To the first.", "To the second.")
    daemon.start()
    daemon.wait_session("s", lambda facts: facts["messages"] == 4 and not facts["activeRequest"], "both are answered")
    assert [text for role, text in model.requests[-1].conversation if role == "user"] == ["first", "/inner it"]


def test_a_second_daemon_on_the_same_state_is_refused(daemon, new_daemon):
    other = new_daemon(owner=daemon.owner)
    other.home = daemon.home
    other.environment["HOME"] = str(daemon.home)
    done = other.run_to_end()
    assert done.returncode == 73
    assert f"process {daemon.pid}" in done.stderr and "--state-dir" in done.stderr


@pytest.mark.parametrize("damage", ["empty", "torn", "garbage", "missing", "row"])
def test_damage_never_stops_the_daemon(daemon, model, damage):
    model.script("One.", "Two.")
    daemon.session("damaged", "1").text()
    daemon.session("whole", "2").text()
    damaged = next(path for path in daemon.session_files() if '"1"' in path.read_text())
    kill(daemon)
    text = damaged.read_text()
    if damage == "row":
        (daemon.state_dir / "damaged.json").write_text("{")
    elif damage == "missing":
        damaged.unlink()
    else:
        damaged.write_text({"empty": "", "torn": text[:-20], "garbage": "\0" * 1000 + "\nx"}[damage])
    model.script("Still here.", "Also here.")
    daemon.start()
    assert daemon.prompt("whole", "?").text() == "Still here."
    if damage == "torn":
        assert daemon.prompt("damaged", "?").text() == "Also here."
    elif damage == "row":
        assert daemon.session_ids() == ["whole"]
    else:
        message = daemon.prompt("damaged", "?").message()
        assert message.data.startswith(b"error: storage_error"), message.data
        daemon.stop_session("damaged")
        assert daemon.session_ids() == ["whole"]


def test_files_are_private_and_hold_no_key(daemon, model):
    model.script("One.")
    daemon.session("private", "1").text()
    for path in [*daemon.session_files(), *daemon.state_dir.iterdir()]:
        assert path.stat().st_mode & 0o777 == 0o600, path
        assert path.parent.stat().st_mode & 0o777 == 0o700, path.parent
        assert path.is_socket() or "sk-test" not in path.read_text()


def test_a_session_file_is_gone_on_with(daemon, model):
    model.script("I will.", "It was 417.")
    daemon.session("first", "Remember 417", model="scripted/thinker", thinkingLevel="high").text()
    daemon.stop_session("first")
    (path,) = daemon.session_files()
    header = json.loads(path.read_text().splitlines()[0])
    assert daemon.session("second", "Which number?", resume=header["id"][:20]).text() == "It was 417."
    assert len(model.requests[-1].conversation) == 3
    facts = daemon.inspect("second")
    assert facts["name"] == "first"
    assert (facts["model"], facts["thinkingLevel"], facts["sessionFile"]) == ("scripted/thinker", "high", str(path))
    request = {"sessionMode": "session", "sessionId": "x", "cwd": "/", "body": "?", "resume": "nope"}
    refusal = daemon.refusal(request)
    assert refusal.error == "session_create_failed" and "nope" in refusal.document["message"]
    # Two writers would mix their lines.
    request["resume"] = str(path)
    refusal = daemon.refusal(request)
    assert refusal.error == "session_create_failed" and '"second"' in refusal.document["message"]
    assert daemon.session_ids() == ["second"]


def test_what_was_configured_stays(daemon, model):
    model.script("One.", "Two.")
    daemon.session("set", "1", events=True, toolStatus=True).text()
    subject = daemon.subject("set")
    daemon.bus.ask(f"{subject}.configure", json.dumps({"model": "scripted/thinker", "thinkingLevel": "high", "name": "Set"}).encode())
    daemon.bus.ask(f"{subject}.extend", b'{"maxLifetime": 5000}')
    kill(daemon)
    daemon.start()
    events = daemon.bus.listen(f"agents.ev.{daemon.owner}.set.message_end")
    facts = daemon.inspect("set")
    assert (facts["model"], facts["thinkingLevel"], facts["name"]) == ("scripted/thinker", "high", "Set")
    assert 4000 < facts["remainingLifetime"] <= 5000
    assert daemon.prompt("set", "2").text() == "Two."
    assert json.loads(events.message().data)["data"]["message"]["role"] == "user"
