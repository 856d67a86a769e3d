"""Compaction: when the older part of a conversation is replaced by a summary, and what the model sees of it afterwards.

The scripted model's window has 200,000 tokens, of which 16,384 are kept free. The settings keep only the newest 50
tokens, which is one message of the tests, so that there is something to summarise.
"""

import json
import signal
import time

import pytest

from support.bridge import Bridge
from support.daemon import MODELS
from support.model_script import Failure, Gate, Stop, Text, ToolCall, Usage

TOO_LONG = Failure(400, "prompt is too long: 213462 tokens > 200000 maximum")
LEAD_IN = "The conversation history before this point was compacted into the following summary:"
SUMMARY = "## Goal\nTo test."
# A message of more than 50 tokens: as a prompt it is where the cut goes, and stays.
LONG = "word " * 60
# The first count of tokens that is too many.
FULL = 200_000 - 16_384 + 1


@pytest.fixture
def daemon(new_daemon):
    daemon = new_daemon()
    configure(daemon)
    return daemon.start()


def configure(daemon, **compaction):
    settings = {"retry": {"baseDelayMs": 20}, "compaction": {"keepRecentTokens": 50, **compaction}}
    daemon.write_agent_file("settings.json", settings)


def tokens(total):
    """What an answer has to say about its length so that the context has `total` tokens."""
    return Usage(input=total - 10, output=10)


def is_summary_request(request):
    return request.prompts[-1].startswith("<conversation>")


def kinds(model):
    """Which of the requests so far asked for a summary."""
    return ["summary" if is_summary_request(request) else "turn" for request in model.requests]


def begin(daemon, model, spec=MODELS["anthropic-messages"]):
    """A session with something to summarise."""
    model.script("first answer")
    daemon.session("s", "first prompt", model=spec).text()


def assert_calls_and_results_match(request):
    """No result without its call, and no call without its result; for anthropic-messages."""
    blocks = [block for message in request.body["messages"] for block in message["content"] if isinstance(block, dict)]
    calls = [block["id"] for block in blocks if block["type"] == "tool_use"]
    assert calls == [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"]


@pytest.mark.parametrize("full", [False, True], ids=["just fits", "one token too many"])
def test_a_full_context_is_compacted_after_the_answer(daemon, model, full):
    begin(daemon, model)
    model.script(["second answer", tokens(FULL if full else FULL - 1)])
    model.script(*([SUMMARY] if full else []), "third answer")
    # The summary's text is nobody's answer.
    assert daemon.prompt("s", LONG).text() == "second answer"
    facts = daemon.wait_session("s", lambda facts: facts["state"] == "idle", "the run is over")
    assert facts["contextTokens"] < 500 if full else facts["contextTokens"] == FULL - 1
    assert daemon.prompt("s", "third prompt").text() == "third answer"
    assert kinds(model) == ["turn", "turn"] + ["summary"] * full + ["turn"]
    first = model.requests[-1].prompts[0]
    if full:
        assert first.startswith(f"{LEAD_IN}\n\n<summary>\n") and "first prompt" not in first
        assert SUMMARY in first and model.requests[-1].prompts[1] == LONG
    else:
        assert first == "first prompt"


def test_the_window_of_small_models_leaves_room_too(daemon, model):
    """The usual numbers would keep more than such a window has."""
    daemon.write_agent_file("settings.json", {})
    models = json.loads((daemon.agent_dir / "models.json").read_text())
    models["providers"]["scripted"]["models"][0] |= {"contextWindow": 16_000, "maxTokens": 2000}
    daemon.write_agent_file("models.json", models)
    model.script("first answer", ["second answer", tokens(12_001)], SUMMARY, "third answer")
    daemon.session("s", "first prompt").text()
    daemon.prompt("s", LONG * 60).text()
    assert daemon.prompt("s", "third prompt").text() == "third answer"
    assert kinds(model) == ["turn", "turn", "summary", "turn"]


def test_compaction_can_be_switched_off(daemon, model):
    configure(daemon, enabled=False)
    begin(daemon, model)
    model.script(["second answer", tokens(FULL)], "third answer")
    daemon.prompt("s", LONG).text()
    assert daemon.prompt("s", "third prompt").text() == "third answer"
    assert kinds(model) == ["turn"] * 3


def test_what_a_summary_request_looks_like(daemon, model):
    begin(daemon, model)
    model.script(["second answer", tokens(FULL)], SUMMARY)
    daemon.prompt("s", LONG).text()
    request = model.wait_for(3)
    assert request.tool_names == []
    assert "do not go on with it" in request.system
    assert "cache_control" not in json.dumps(request.body)
    assert "[User]: first prompt\n\n[Assistant]: first answer" in request.prompts[0]


@pytest.mark.parametrize("spec", MODELS.values(), ids=MODELS)
def test_an_overflow_is_answered_after_compaction(daemon, model, spec):
    begin(daemon, model, spec)
    model.script(TOO_LONG, SUMMARY, "fits now")
    assert daemon.prompt("s", LONG).text() == "fits now"
    assert kinds(model) == ["turn", "turn", "summary", "turn"]
    conversation = model.requests[-1].conversation
    assert LEAD_IN in conversation[0][1] and conversation[-1][1].endswith(LONG)


def test_a_second_overflow_in_a_row_ends_the_run(daemon, model):
    begin(daemon, model)
    model.script(TOO_LONG, SUMMARY, TOO_LONG)
    failed = daemon.prompt("s", LONG).failure()
    assert "prompt is too long" in failed.text
    assert kinds(model) == ["turn", "turn", "summary", "turn"]


def test_each_prompt_has_its_own_chance_to_recover(daemon, model):
    begin(daemon, model)
    for number in range(2):
        model.script(TOO_LONG, SUMMARY, f"answer {number}")
        assert daemon.prompt("s", f"prompt {number} {LONG}").text() == f"answer {number}"


def test_an_overflow_with_nothing_to_summarise_is_an_error(daemon, model):
    model.script(TOO_LONG)
    failed = daemon.run("x").failure()
    assert "prompt is too long" in failed.text
    assert kinds(model) == ["turn"]


def test_an_answer_cut_by_the_full_window_is_asked_for_again(daemon, model):
    begin(daemon, model)
    model.script([Text("half "), Stop("max_tokens"), Usage(input=199_990, output=5)], SUMMARY, "whole")
    assert daemon.prompt("s", LONG).text() == "half whole"
    assert kinds(model) == ["turn", "turn", "summary", "turn"]
    assert "half" not in [text for role, text in model.requests[-1].conversation if role == "assistant"]


def test_an_answer_cut_by_the_models_own_limit_is_complete(daemon, model):
    begin(daemon, model)
    model.script([Text("as long as it gets"), Stop("max_tokens"), Usage(input=1000, output=8192)])
    assert daemon.prompt("s", LONG).text() == "as long as it gets"
    assert kinds(model) == ["turn", "turn"]


def test_a_context_that_fills_up_between_turns_is_compacted_there(daemon, model):
    begin(daemon, model)
    (daemon.cwd / "file.txt").write_text(LONG)
    model.script([ToolCall("read", {"path": "file.txt"}), tokens(FULL)], SUMMARY, SUMMARY, "done")
    assert daemon.prompt("s", "second prompt").text() == "done"
    # The cut goes through the turn, whose beginning is summarised by itself.
    assert kinds(model) == ["turn", "turn", "summary", "summary", "turn"]
    last = model.requests[-1]
    assert "**Turn Context (split turn):**" in last.prompts[0]
    assert last.tool_results[0][0] == LONG
    assert_calls_and_results_match(last)


def test_an_earlier_summary_is_brought_up_to_date_with_its_files(daemon, model):
    begin(daemon, model)
    for number in (1, 2):
        model.script([ToolCall("write", {"path": f"file{number}.txt", "content": "x"})], f"made {number}")
        daemon.prompt("s", f"prompt {number}").text()
        model.script(["noted", tokens(FULL)], f"## Goal\nsummary {number}")
        daemon.prompt("s", LONG).text()
        model.wait_for(1 + 4 * number)
    update = model.requests[-1].prompts[0]
    assert "<previous-summary>\n## Goal\nsummary 1\n</previous-summary>" in update
    model.script("yes")
    daemon.prompt("s", "and now?").text()
    first = model.requests[-1].prompts[0]
    assert "## Goal\nsummary 2\n\n<modified-files>\nfile1.txt\nfile2.txt\n</modified-files>" in first


def test_the_conversation_goes_on_when_a_summary_fails(daemon, model):
    begin(daemon, model)
    model.script(["second answer", tokens(FULL)])
    model.answer(lambda request: Failure(400, "no summary") if is_summary_request(request) else "third answer")
    assert daemon.prompt("s", LONG).text() == "second answer"
    daemon.wait_log("session s: Auto-compaction failed: 400: no summary")
    assert daemon.prompt("s", "third prompt").text() == "third answer"
    assert model.requests[-1].prompts[0] == "first prompt"


def test_a_summary_that_is_refused_for_now_is_asked_for_again(daemon, model):
    begin(daemon, model)
    model.script(TOO_LONG, Failure(500, "oops"), SUMMARY, "fits now")
    assert daemon.prompt("s", LONG).text() == "fits now"
    assert kinds(model) == ["turn", "turn", "summary", "summary", "turn"]


def test_summaries_are_part_of_what_a_session_used(daemon, model):
    begin(daemon, model)
    model.script(TOO_LONG, [SUMMARY, Usage(input=1000, output=100)], ["fits now", Usage(input=10, output=5)])
    daemon.prompt("s", LONG).text()
    facts = daemon.inspect("s")
    assert (facts["tokens"]["input"], facts["tokens"]["output"]) == (1020, 110)


def test_stop_ends_a_compaction(daemon, model):
    begin(daemon, model)
    gate = Gate()
    model.script(TOO_LONG, [gate, SUMMARY])
    stream = daemon.prompt("s", LONG)
    gate.wait_reached()
    begun = time.monotonic()
    assert daemon.stop_session("s")["ok"]
    assert stream.failure().text.startswith("error: ")
    assert time.monotonic() - begun < 2
    assert model.requests[-1].left.wait(5)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
def test_a_compacted_session_is_the_same_after_a_restart(daemon, model, number):
    begin(daemon, model)
    model.script(["second answer", tokens(FULL)], SUMMARY, "third answer")
    daemon.prompt("s", LONG).text()
    daemon.prompt("s", "third prompt").text()
    before = model.requests[-1].conversation
    daemon.signal(number)
    daemon.wait_exit()
    daemon.start()
    model.script("fourth answer")
    assert daemon.prompt("s", "fourth prompt").text() == "fourth answer"
    # What was counted before the compaction does not lead to another one.
    assert kinds(model) == ["turn", "turn", "summary", "turn", "turn"]
    assert model.requests[-1].conversation == [*before, ("assistant", "third answer"), ("user", "fourth prompt")]
    # The file is one that PI can read.
    (path,) = daemon.agent_dir.glob("sessions/*/*.jsonl")
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    (compaction,) = [entry for entry in entries if entry["type"] == "compaction"]
    (kept,) = [entry for entry in entries if entry.get("id") == compaction["firstKeptEntryId"]]
    assert kept["message"]["content"] == LONG or kept["message"]["content"][0]["text"] == LONG
    assert compaction["summary"] == SUMMARY and compaction["tokensBefore"] == FULL
    assert compaction["details"] == {"readFiles": [], "modifiedFiles": []}
    assert compaction["usage"]["totalTokens"] == 15


def test_a_compaction_that_is_asked_for(daemon, model):
    """Over NATS and over the socket, whatever the length."""
    begin(daemon, model)
    model.script("second answer")
    daemon.prompt("s", LONG).text()
    model.script(SUMMARY)
    done = json.loads(daemon.bus.ask(f"{daemon.subject('s')}.compact", b'{"instructions": "mind the gap"}').data)
    assert done["summary"].startswith(SUMMARY) and done["tokensBefore"] > 0
    assert is_summary_request(model.requests[-1]) and "mind the gap" in model.requests[-1].prompts[-1]
    with Bridge(daemon.session_socket("s")) as client:
        assert "compact" in client.refusal("compact").lower()
    model.script("third answer")
    daemon.prompt("s", "third prompt").text()
    assert model.requests[-1].prompts[0].startswith(LEAD_IN)
