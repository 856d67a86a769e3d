"""Each prompt is settled once: the event says why and which files its turn changed, and the operator's command is told."""

import json
import signal

import pytest

from support.bridge import Bridge
from support.daemon import API_KEY
from support.model_script import Failure, Gate, ToolCall
from support.waiting import eventually

pytestmark = pytest.mark.any_server


def settled(daemon, session="s"):
    """The events of a session so far."""
    query = {"event": "settled", "limit": 100}
    return [event["data"] for event in daemon.bus.ask_json(f"{daemon.subject(session)}.history", query)["events"]]


def wait_settled(daemon, count, session="s"):
    found = eventually(lambda: len(events := settled(daemon, session)) >= count and events, f"{count} prompts are settled")
    assert len(found) == count
    return found


def test_files_that_a_turn_changed(daemon, model):
    (daemon.cwd / "edited").write_text("one\ntwo\nthree\n")
    (daemon.cwd / "gone").write_text("1\n2\n")
    (daemon.cwd / "kept").write_text("x\n")
    (daemon.cwd / ".gitignore").write_text("ignored\n")
    (daemon.cwd / ".git").mkdir()
    edit = {"path": "edited", "edits": [{"oldText": "two\n", "newText": "2\n2b\n"}]}
    model.script(
        [ToolCall("edit", edit, id="a"), ToolCall("write", {"path": "new", "content": "a\nb"}, id="b")],
        [ToolCall("bash", {"command": "rm gone; touch kept; echo x > ignored; printf 'm\\n' > made; echo 4 >> edited"}, id="c")],
        "done",
    )
    daemon.session("s", "go").text()
    (event,) = wait_settled(daemon, 1)
    assert event["reason"] == "final" and event["toolCalls"] == 3 and len(event["promptIds"]) == 1
    assert event["files"] == [
        {"path": "edited", "kind": "modified", "added": 3, "removed": 1},
        {"path": "gone", "kind": "deleted", "added": 0, "removed": 2},
        {"path": "made", "kind": "created", "added": 1, "removed": 0},
        {"path": "new", "kind": "created", "added": 2, "removed": 0},
    ]
    # The next turn is held against what it finds.
    model.script([ToolCall("bash", {"command": "rm made new"})], "done")
    daemon.prompt("s", "again").text()
    *_, event = wait_settled(daemon, 2)
    assert [(file["path"], file["kind"]) for file in event["files"]] == [("made", "deleted"), ("new", "deleted")]


def test_reasons(new_daemon, model):
    daemon = new_daemon()
    daemon.config["questionTimeout"] = 1
    daemon.write_agent_file("settings.json", {"retry": {"enabled": False}})
    daemon.start()
    model.script("fine")
    daemon.session("s", "go").text()
    question = {"questions": [{"question": "Go?", "options": [{"label": "yes"}, {"label": "no"}]}]}
    model.script([ToolCall("question", question)], "then not")
    daemon.prompt("s", "ask").text()
    model.script(Failure(400, "no"))
    daemon.prompt("s", "fail").failure()
    gate = Gate()
    model.script(["begun", gate])
    daemon.prompt("s", "abort").until("begun")
    daemon.prompt("s", {"body": "cancel", "from": "me"})
    daemon.wait_session("s", lambda facts: facts["queuedRequests"] == 1, "it waits")
    (row,) = daemon.inspect("s")["queue"]
    daemon.bus.ask_json(f"{daemon.subject('s')}.cancel", row)
    daemon.bus.ask_json(f"{daemon.subject('s')}.abort")
    events = wait_settled(daemon, 5)
    assert [event["reason"] for event in events] == ["final", "needs_answer", "error", "stopped", "stopped"]
    assert events[2]["error"]["error"] == "model_error"
    assert events[3]["promptIds"] == [row["promptId"]] and events[3]["from"] == "me"
    assert len({event["promptIds"][0] for event in events}) == 5


def test_a_prompt_that_a_crash_interrupts_is_settled_once(daemon, model):
    model.script("hello", ["begun", Gate()])
    daemon.session("s", "hi").text()
    stream = daemon.prompt("s", "go")
    stream.until("begun")
    daemon.signal(signal.SIGKILL)
    daemon.wait_exit()
    model.script("whole")
    daemon.start()
    assert stream.text().endswith("whole")
    (event,) = wait_settled(daemon, 1)
    assert event["reason"] == "final"


class Command:
    """An `onSettled` that keeps what it gets."""

    def __init__(self, daemon, tail=""):
        self.folder = daemon.home / "notices"
        self.folder.mkdir()
        daemon.config["onSettled"] = f'file=$(mktemp {self.folder}/XXXXXX); cat > $file; env > $file.env; mv $file $file.json; {tail}'

    def wait(self, count):
        found = eventually(lambda: len(files := list(self.folder.glob("*.json"))) >= count and files, f"{count} notices")
        assert len(found) == count
        return [json.loads(file.read_text()) for file in found]


def test_the_operators_command_is_told(new_daemon, model):
    daemon = new_daemon()
    command = Command(daemon)
    daemon.environment |= {"ANTHROPIC_API_KEY": API_KEY, "NATS_TOKEN": API_KEY}
    daemon.start()
    model.script([ToolCall("write", {"path": "f", "content": "x\n"})], "done", "run")
    daemon.session("s", "go").text()
    (notice,) = command.wait(1)
    assert (notice["event"], notice["session"], notice["cwd"]) == ("settled", "s", str(daemon.cwd))
    assert {"type": "settled", **notice["data"]} == wait_settled(daemon, 1)[0]
    assert notice["data"]["files"] == [{"path": "f", "kind": "created", "added": 1, "removed": 0}]
    daemon.run("once").text()
    assert {notice["named"] for notice in command.wait(2)} == {True, False}
    for path in command.folder.glob("*.env"):
        assert API_KEY not in path.read_text()


def test_a_command_that_fails_or_hangs_harms_nothing(new_daemon, model):
    daemon = new_daemon()
    daemon.config["onSettled"] = "exec 0<&-; exit 3"
    daemon.start()
    model.answer(lambda _request: "ok")
    assert daemon.run("once").text() == "ok"
    daemon.wait_log("onSettled: the command ended with exit code 3")


def test_the_last_notices_go_out_before_the_end(new_daemon, model):
    daemon = new_daemon()
    command = Command(daemon)
    daemon.start()
    model.answer(lambda _request: ["begun", Gate()])
    daemon.session("s", "go", onRestart="end").until("begun")
    daemon.signal()
    daemon.wait_log("shutting down")
    daemon.signal()
    assert daemon.wait_exit() == 0
    (notice,) = command.wait(1)
    assert notice["data"]["reason"] == "stopped"


def test_listeners_hear_of_it(daemon, model):
    model.script("ok", "again")
    daemon.session("s", "go").text()
    with Bridge(daemon.session_socket("s")) as client:
        client.ask("prompt", message="more", **{"from": "me"})
        event = client.event("settled")
        assert (event["data"]["reason"], event["data"]["from"]) == ("final", "me")
