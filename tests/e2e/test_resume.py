"""Session files of the PI agent, and damaged ones: a session that resumes them knows what was said, and goes on there."""

import json

import pytest

from support.daemon import MODELS
from support.waiting import eventually

pytestmark = pytest.mark.any_server

FIRST = "2026-01-01T00:00:00.000Z"
USAGE = {"input": 1, "output": 1, "cacheRead": 0, "cacheWrite": 0, "totalTokens": 2,
         "cost": {"input": 0, "output": 0, "cacheRead": 0, "cacheWrite": 0, "total": 0}}


class PiFile:
    """A session file as the PI agent writes it."""

    def __init__(self, daemon, session_id="0199-pi", cwd=None, folder=None):
        cwd = str(cwd or daemon.cwd)
        folder = folder or daemon.agent_dir / "sessions" / f"--{cwd.strip('/').replace('/', '-')}--"
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"2026-01-01T00-00-00-000Z_{session_id}.jsonl"
        self.lines = [json.dumps({"type": "session", "version": 3, "id": session_id, "timestamp": FIRST, "cwd": cwd})]
        self.last = None

    def entry(self, kind, parent=..., **fields):
        entry_id = f"{len(self.lines):08x}"
        parent = self.last if parent is ... else parent
        self.lines.append(json.dumps({"type": kind, "id": entry_id, "parentId": parent, "timestamp": FIRST, **fields}))
        self.last = entry_id
        return entry_id

    def user(self, text, **fields):
        return self.entry("message", message={"role": "user", "content": [{"type": "text", "text": text}], "timestamp": 1}, **fields)

    def assistant(self, *blocks, spec=MODELS["anthropic-messages"], api="anthropic-messages", reason="stop"):
        provider, model = spec.split("/")
        content = [{"type": "text", "text": block} if isinstance(block, str) else block for block in blocks]
        message = {"role": "assistant", "content": content, "api": api, "provider": provider, "model": model,
                   "usage": USAGE, "stopReason": reason, "timestamp": 2}
        return self.entry("message", message=message)

    def result(self, call_id, text):
        message = {"role": "toolResult", "toolCallId": call_id, "toolName": "read", "isError": False, "timestamp": 3,
                   "content": [{"type": "text", "text": text}]}
        return self.entry("message", message=message)

    def save(self, end="\n"):
        self.path.write_text("\n".join(self.lines) + end)
        return self

    def entries(self):
        return [json.loads(line) for line in self.path.read_text().splitlines()]


def call(call_id, **fields):
    return {"type": "toolCall", "id": call_id, "name": "read", "arguments": {"path": "a"}, **fields}


def resume(daemon, model, wanted, spec=MODELS["anthropic-messages"]):
    """Goes on with a session; returns the request that the model got."""
    model.script("new answer")
    assert daemon.session("s", "new prompt", resume=str(wanted), model=spec).text() == "new answer"
    return model.requests[-1]


def test_a_file_with_entries_of_every_kind(daemon, model):
    file = PiFile(daemon)
    file.entry("model_change", provider="scripted", modelId="one")
    file.entry("thinking_level_change", thinkingLevel="off")
    file.user("old prompt")
    file.entry("from_the_future", anything={"x": [1, 2]})
    file.assistant("old answer")
    file.entry("label", targetId="00000003", label="here")
    file.entry("session_info", name="A name")
    file.entry("custom", customType="extension", data={"n": 1})
    file.entry("custom_message", customType="extension", content="told by an extension", display=True)
    before = file.save().entries()
    request = resume(daemon, model, file.path)
    assert request.prompts == ["old prompt", "told by an extension", "new prompt"]
    assert ("assistant", "old answer") in request.conversation
    # What was there is untouched, and what is new follows it.
    after = file.entries()
    assert after[: len(before)] == before
    messages = [entry for entry in after[len(before) :] if entry["type"] == "message"]
    assert [entry["message"]["role"] for entry in messages] == ["user", "assistant"]
    ids = {entry["id"] for entry in after}
    assert all(entry["parentId"] in ids for entry in after[len(before) :])
    assert len(ids) == len(after)


@pytest.mark.parametrize(
    ("damage", "prompts"),
    [
        (lambda text: text[:-1], ["one", "two"]),
        (lambda text: text[:-20], ["one"]),
        (lambda text: text.replace("\n", "\n{broken\n\n", 1), ["one", "two"]),
        (lambda text: text + "\0\0\0\0", ["one", "two"]),
        (lambda text: text.replace("\n", "\r\n"), ["one", "two"]),
    ],
    ids=["no final newline", "torn last line", "malformed line", "zeros at the end", "other line ends"],
)
def test_a_damaged_file(daemon, model, damage, prompts):
    file = PiFile(daemon)
    file.user("one")
    file.assistant("answer")
    file.user("two")
    file.save()
    file.path.write_text(damage(file.path.read_text()), newline="")
    request = resume(daemon, model, file.path)
    flat = "\n".join(request.prompts)
    assert [prompt for prompt in ("one", "two") if prompt in flat] == prompts and flat.endswith("new prompt")
    # The next one to resume it finds all of it.
    daemon.stop_session("s")
    again = resume(daemon, model, file.path)
    assert ("assistant", "new answer") in again.conversation


def test_only_the_active_branch_counts(daemon, model):
    file = PiFile(daemon)
    file.user("root")
    start = file.assistant("start")
    file.user("abandoned")
    file.assistant("dead end")
    file.user("chosen", parent=start)
    file.assistant("good")
    request = resume(daemon, model, file.save().path)
    assert request.conversation == [
        ("user", "root"), ("assistant", "start"), ("user", "chosen"), ("assistant", "good"), ("user", "new prompt")
    ]


def test_a_file_with_two_roots(daemon, model):
    file = PiFile(daemon)
    file.user("first root")
    file.assistant("first answer")
    file.user("second root", parent=None)
    file.assistant("second answer")
    request = resume(daemon, model, file.save().path)
    assert request.conversation == [("user", "second root"), ("assistant", "second answer"), ("user", "new prompt")]


def test_a_compaction_stands_for_what_came_before_it(daemon, model):
    file = PiFile(daemon)
    file.user("forgotten")
    file.assistant("forgotten too")
    kept = file.user("kept")
    file.assistant("kept too")
    file.entry("compaction", summary="## Goal\nOld things.", firstKeptEntryId=kept, tokensBefore=1000)
    file.user("later")
    file.assistant("later too")
    request = resume(daemon, model, file.save().path)
    assert "<summary>\n## Goal\nOld things.\n</summary>" in request.prompts[0]
    assert request.conversation[1:] == [
        ("user", "kept"), ("assistant", "kept too"), ("user", "later"), ("assistant", "later too"), ("user", "new prompt")
    ]


@pytest.mark.parametrize("spec", MODELS.values(), ids=MODELS)
def test_tool_calls_of_another_provider(daemon, model, spec):
    """Ids and signatures that one provider made are not fit for another."""
    foreign = "call_1|fc_" + "x" * 80 + "+/="
    file = PiFile(daemon)
    file.user("look")
    thought = {"type": "thinking", "thinking": "secret thought", "thinkingSignature": '{"type":"reasoning","id":"rs_1"}'}
    file.assistant(thought, call(foreign), spec="openai/gpt-5", api="openai-responses", reason="toolUse")
    file.result(foreign, "found it")
    file.assistant("seen", spec="openai/gpt-5", api="openai-responses")
    request = resume(daemon, model, file.save().path, spec)
    assert [text for text, _ in request.tool_results] == ["found it"]
    sent = json.dumps(request.body)
    assert foreign not in sent and "secret thought" not in sent and "rs_1" not in sent
    assert ("assistant", "seen") in request.conversation


@pytest.mark.parametrize("spec", MODELS.values(), ids=MODELS)
def test_tool_calls_without_results(daemon, model, spec):
    file = PiFile(daemon)
    file.user("look")
    file.assistant(call("one"), call("two"), reason="toolUse")
    file.result("one", "found it")
    request = resume(daemon, model, file.save().path, spec)
    texts = [text for text, _ in request.tool_results]
    assert texts[0] == "found it" and len(texts) == 2, "every call has a result"


def test_failed_answers_are_a_record_only(daemon, model):
    file = PiFile(daemon)
    file.user("look")
    file.assistant("half an ans", call("never-run"), reason="aborted")
    request = resume(daemon, model, file.save().path)
    assert "half an ans" not in json.dumps(request.body) and request.tool_results == []


def test_a_session_is_found_by_its_id_and_by_its_beginning(daemon, model):
    PiFile(daemon, "0199aaaa-1111").save()
    file = PiFile(daemon, "0199bbbb-2222")
    file.user("old prompt")
    file.assistant("old answer")
    file.save()
    for wanted in ("0199bbbb-2222", "0199b"):
        assert "old prompt" in resume(daemon, model, wanted).prompts
        daemon.stop_session("s")
    request = {"sessionMode": "session", "sessionId": "s", "body": "x", "cwd": str(daemon.cwd)}
    for wanted in ("0199", "nothing-like-it", "/no/such/file.jsonl"):
        assert daemon.refusal({**request, "resume": wanted}).error == "session_create_failed"


def test_what_is_no_session_file_is_refused_and_left_alone(daemon, model):
    path = daemon.cwd / "notes.jsonl"
    path.write_text('{"type":"note"}\n')
    assert "not a session file" in daemon.session("s", "x", resume=str(path)).failure().text
    eventually(lambda: daemon.session_ids() == [], "the session is gone")
    assert path.read_text() == '{"type":"note"}\n'
    assert model.requests == []


def test_one_file_has_one_writer(daemon, model):
    file = PiFile(daemon)
    file.user("old prompt")
    file.assistant("old answer")
    file.save()
    resume(daemon, model, file.path)
    assert "in use" in daemon.session("t", "x", resume=str(file.path)).failure().text
    eventually(lambda: daemon.session_ids() == ["s"], "the second session is gone")
    model.script("still here")
    assert daemon.prompt("s", "x").text() == "still here"
