"""Session files in other hands: PI and others append to them, delete, replace and shorten them, while the session lives."""

import itertools
import json

import pytest

from support.bus import NoResponders
from support.model_script import Gate, ToolCall
from support.session_files import entries, kill
from support.waiting import eventually

pytestmark = pytest.mark.any_server

_numbers = itertools.count()


def append_turn(path, question, answer):
    """What PI does with a session file: it reads it, and appends one entry after the other behind the last one."""
    parent = entries(path)[-1]["id"]
    usage = {"input": 7, "output": 1, "cacheRead": 0, "cacheWrite": 0, "totalTokens": 8,
             "cost": {"input": 0, "output": 0, "cacheRead": 0, "cacheWrite": 0, "total": 0}}
    for message in (
        {"role": "user", "content": [{"type": "text", "text": question}], "timestamp": 1},
        {"role": "assistant", "content": [{"type": "text", "text": answer}], "api": "anthropic-messages",
         "provider": "scripted", "model": "one", "usage": usage, "stopReason": "stop", "timestamp": 2},
    ):
        entry = {"type": "message", "id": f"{next(_numbers):08x}", "parentId": parent,
                 "timestamp": "2020-01-01T00:00:00.000Z", "message": message}
        with path.open("a") as file:
            file.write(json.dumps(entry) + "\n")
        parent = entry["id"]


def stray(path):
    """Entries that do not lead to the last one."""
    rest = entries(path)[1:]
    parents = {entry["id"]: entry["parentId"] for entry in rest}
    at, branch = rest[-1]["id"], set()
    while at:
        branch.add(at)
        at = parents[at]
    return [entry for entry in rest if entry["id"] not in branch]


@pytest.fixture
def session(daemon, model):
    """A session that has answered, its file, and its events."""
    model.script("hello")
    daemon.session("s", "hi", events=True).text()
    daemon.wait_session("s", lambda facts: not facts["activeRequest"], "it is idle")
    (path,) = daemon.session_files()
    return daemon, path


def listen(daemon, event):
    return daemon.bus.listen(f"agents.ev.{daemon.owner}.s.{event}")


def data(events):
    return json.loads(events.message().data)["data"]


def settled(daemon, path):
    """The record of the last prompt's end is in the file."""
    eventually(lambda: entries(path)[-1].get("customType") == "nats-pi-bridge.settled", "it is settled")


def test_an_idle_session_goes_on_from_pis_turn(session, model):
    daemon, path = session
    told = listen(daemon, "foreign_entries")
    expected = [("user", "hi"), ("assistant", "hello")]
    for number in range(20):
        settled(daemon, path)
        append_turn(path, f"pi {number}", f"to pi {number}")
        before = daemon.inspect("s")["tokens"]["input"]
        model.script(f"to us {number}")
        assert daemon.prompt("s", f"us {number}").text() == f"to us {number}"
        expected += [("user", f"pi {number}"), ("assistant", f"to pi {number}"), ("user", f"us {number}")]
        assert model.requests[-1].conversation == expected
        expected.append(("assistant", f"to us {number}"))
        assert data(told) == {"type": "foreign_entries", "entries": 2, "messages": 4 * number + 4}
        assert daemon.inspect("s")["tokens"]["input"] >= before + 7
    assert stray(path) == []
    kill(daemon)
    daemon.start()
    model.script("still")
    daemon.prompt("s", "?").text()
    assert model.requests[-1].conversation == [*expected, ("user", "?")]


def test_before_the_first_prompt_after_a_restart(session, model):
    daemon, path = session
    settled(daemon, path)
    kill(daemon)
    append_turn(path, "pi", "to pi")
    daemon.start()
    append_turn(path, "pi 2", "to pi 2")
    model.script("yes")
    assert daemon.prompt("s", "?").text() == "yes"
    texts = [text for _, text in model.requests[-1].conversation]
    assert texts == ["hi", "hello", "pi", "to pi", "pi 2", "to pi 2", "?"]
    assert stray(path) == []


def test_a_busy_session_makes_a_branch_and_says_so(session, model):
    daemon, path = session
    told = listen(daemon, "foreign_writer")
    gate = Gate()
    model.script([ToolCall("ls", {})], [gate, "done"], "again")
    stream = daemon.prompt("s", "go")
    gate.wait_reached()
    append_turn(path, "pi", "to pi")
    gate.open()
    assert stream.text() == "done"
    assert data(told) == {"type": "foreign_writer"}
    daemon.wait_log("foreign_writer")
    assert [entry["message"]["role"] for entry in stray(path)] == ["user", "assistant"]
    # Ours is the branch that goes on, also after a restart.
    kill(daemon)
    daemon.start()
    assert daemon.prompt("s", "?").text() == "again"
    assert [text for _, text in model.requests[-1].conversation] == ["hi", "hello", "go", "done", "?"]


@pytest.mark.parametrize("what", ["deleted", "folder", "shortened", "emptied"])
@pytest.mark.parametrize("busy", [False, True])
def test_what_is_gone_is_written_once_more(session, model, what, busy):
    daemon, path = session
    told = listen(daemon, "session_file_restored")
    gate = Gate()
    settled(daemon, path)
    stream = None
    if busy:
        model.script([gate, "one"])
        stream = daemon.prompt("s", "go")
        gate.wait_reached()
        eventually(lambda: entries(path)[-1]["type"] == "message", "it is begun")
    text = path.read_text()
    if what == "folder":
        path.unlink()
        path.parent.rmdir()
    elif what == "deleted":
        path.unlink()
    else:
        with path.open("r+") as file:
            file.truncate(len(text) // 2 if what == "shortened" else 0)
    if busy:
        gate.open()
    else:
        model.script("one")
        stream = daemon.prompt("s", "go")
    assert stream.text() == "one"
    assert data(told)["cause"] == ("deleted" if what in ("deleted", "folder") else "shortened")
    if what in ("deleted", "folder"):
        assert path.read_text().startswith(text)
    assert path.stat().st_mode & 0o777 == 0o600
    settled(daemon, path)
    kill(daemon)
    daemon.start()
    model.script("two")
    assert daemon.prompt("s", "?").text() == "two"
    assert [text for _, text in model.requests[-1].conversation] == ["hi", "hello", "go", "one", "?"]
    assert stray(path) == []


def test_what_is_gone_of_a_file_that_is_not_in_memory_is_told(session, model):
    daemon, path = session
    settled(daemon, path)
    kill(daemon)
    daemon.start()
    # A session that answers has looked at its file.
    daemon.inspect("s")
    lines = path.read_text().splitlines(keepends=True)
    (answer,) = [at for at, line in enumerate(lines) if '"role":"assistant"' in line]
    path.write_text("".join(lines[:answer]))
    told = listen(daemon, "session_file_shortened")
    model.script("one")
    assert daemon.prompt("s", "go").text() == "one"
    assert data(told) == {"type": "session_file_shortened", "messages": 1}
    daemon.wait_log("session_file_shortened")
    assert [text for _, text in model.requests[-1].conversation] == ["hi", "go"]


def test_a_replaced_file_is_gone_on_with_or_refused(session, model):
    daemon, path = session
    settled(daemon, path)
    copy = path.with_suffix(".new")
    copy.write_text(path.read_text())
    append_turn(copy, "pi", "to pi")
    copy.rename(path)
    model.script("one")
    assert daemon.prompt("s", "go").text() == "one"
    assert [text for _, text in model.requests[-1].conversation] == ["hi", "hello", "pi", "to pi", "go"]
    settled(daemon, path)
    assert stray(path) == []
    good = path.read_text()
    for other in ("nonsense", json.dumps({"type": "session", "version": 3, "id": "another", "cwd": "/"}) + "\n"):
        copy.write_text(other)
        copy.rename(path)
        failure = daemon.prompt("s", "lost?").failure()
        assert failure.word == "storage_error"
        assert path.read_text() == other
    copy.write_text(good)
    copy.rename(path)
    model.script("two")
    assert daemon.prompt("s", "?").text() == "two"
    assert "lost?" not in path.read_text()


def spawn(daemon, **fields):
    subject = f"agents.spawn.pi-exec.{daemon.owner}.control"
    return daemon.bus.ask_json(subject, {"session_id": "t", "cwd": str(daemon.cwd), **fields})


@pytest.mark.parametrize("content", ["", "nonsense\n", '{"type":"message"}\n', '{"type":"session","version":9,"id":"x"}\n'])
def test_what_is_no_session_file_makes_no_session(daemon, model, content):
    path = daemon.cwd / "file.jsonl"
    path.write_text(content)
    request = {"sessionMode": "session", "sessionId": "t", "body": "x", "cwd": str(daemon.cwd), "resume": str(path)}
    assert daemon.refusal(request).error == "session_create_failed"
    assert spawn(daemon, resume=str(path))["error"] == "session_create_failed"
    assert daemon.session_ids() == []
    with pytest.raises(NoResponders):
        daemon.bus.ask(daemon.subject("t"), b"x", timeout=2)
    assert path.read_text() == content


def test_two_of_ours_on_one_file(session, new_daemon, model):
    daemon, path = session
    for _ in range(2):
        refused = spawn(daemon, resume=str(path))
        assert refused["error"] == "session_create_failed" and 'session "s"' in refused["message"]
        # After a restart nothing of the file is open.
        settled(daemon, path)
        kill(daemon)
        daemon.start()
    model.script("awake")
    daemon.prompt("s", "x").text()
    other = new_daemon().start()
    refused = spawn(other, resume=str(path))
    assert refused["error"] == "session_create_failed" and f"process {daemon.pid}" in refused["message"]
    assert other.session_ids() == []


OLD = {
    1: [{"type": "session", "id": "old", "timestamp": "2025-01-01T00:00:00.000Z", "cwd": "/"},
        {"type": "message", "timestamp": "2025-01-01T00:00:01.000Z", "message": {"role": "user", "content": "1", "timestamp": 1}},
        {"type": "message", "timestamp": "2025-01-01T00:00:02.000Z", "message": {"role": "user", "content": "2", "timestamp": 1}},
        {"type": "compaction", "timestamp": "2025-01-01T00:00:03.000Z", "summary": "One.", "firstKeptEntryIndex": 2, "tokensBefore": 9}],
    2: [{"type": "session", "version": 2, "id": "old", "timestamp": "2025-01-01T00:00:00.000Z", "cwd": "/"},
        {"type": "message", "id": "a", "parentId": None, "message": {"role": "user", "content": "1", "timestamp": 1}},
        {"type": "message", "id": "b", "parentId": "a", "message": {"role": "user", "content": "stray", "timestamp": 1}},
        {"type": "message", "id": "c", "parentId": "a",
         "message": {"role": "hookMessage", "customType": "x", "content": "2", "display": True, "timestamp": 1}}],
}


@pytest.mark.parametrize("version", OLD)
def test_old_files_become_new_ones_with_the_first_write(daemon, model, version):
    path = daemon.cwd / "old.jsonl"
    text = "".join(json.dumps(entry) + "\n" for entry in OLD[version])
    path.write_text(text)
    spawn(daemon, resume=str(path))
    eventually(lambda: daemon.inspect("t")["messages"], "it is read")
    assert path.read_text() == text
    model.script("yes")
    assert daemon.prompt("t", "?").text() == "yes"
    heard = model.requests[-1].conversation
    header, *rest = entries(path)
    assert header == {**OLD[version][0], "version": 3}
    old = rest[:len(OLD[version]) - 1]
    assert old[0]["message"]["content"] == "1"
    assert all("id" in entry and "parentId" in entry for entry in rest)
    if version == 1:
        assert [entry["parentId"] for entry in rest] == [None, *[entry["id"] for entry in rest[:-1]]]
        assert (old[2]["firstKeptEntryId"], "firstKeptEntryIndex" in old[2]) == (old[1]["id"], False)
    else:
        assert old[2]["message"]["role"] == "custom" and [e["id"] for e in stray(path)] == ["b"]
    daemon.stop_session("t")
    model.script("yes")
    daemon.session("u", "!", resume=str(path)).text()
    assert model.requests[-1].conversation == [*heard, ("assistant", "yes"), ("user", "!")]
