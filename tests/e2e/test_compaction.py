"""Compaction: when the older part of a conversation is replaced by a summary, and what the model sees of it afterwards.

The scripted model's window has 200,000 tokens, of which 16,384 are kept free. The settings keep only the newest 50
tokens, which is one message of the tests, so that there is something to summarise.
"""

import base64
import json
import signal
import time

import pytest

from support.bridge import Bridge
from support.daemon import MODELS
from support.model_script import Failure, Gate, Raw, Stop, Text, Thinking, ToolCall, Unterminated, Usage
from support.strict_model import change_models

pytestmark = pytest.mark.any_server

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
    assert time.monotonic() - begun < 10
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


# What follows has a model server with a window of its own: it refuses every request that is too long, a token being four
# bytes of the body, as the services do.

OVERFLOWS = {
    "anthropic-messages": Failure(400, "prompt is too long: N tokens > M maximum"),
    "openai-completions": Failure(400, "This model's maximum context length is 1000 tokens. However, you requested 2000"),
    "openai-responses": Failure(400, "Your input exceeds the context window of this model."),
    "google-generative-ai": Failure(400, "The input token count (2000) exceeds the maximum number of tokens allowed (1000)."),
}


class Window:
    """Answers requests that fit into so many tokens; summaries with `summary`, turns with the next of `turns`, or `ok`."""

    def __init__(self, model, tokens, api="anthropic-messages", summary=SUMMARY, turns=()):
        self.tokens, self.refusal, self.summary, self.turns = tokens, OVERFLOWS[api], summary, list(turns)
        self.refused = 0
        model.answer(self)

    def __call__(self, request):
        if len(json.dumps(request.body, ensure_ascii=False)) // 4 > self.tokens:
            self.refused += 1
            return self.refusal
        if is_summary_request(request):
            return self.summary
        return self.turns.pop(0) if self.turns else "ok"


def set_window(daemon, tokens, max_tokens=2000):
    models = json.loads((daemon.agent_dir / "models.json").read_text())
    for provider in models["providers"].values():
        provider["models"][0] |= {"contextWindow": tokens, "maxTokens": max_tokens}
    daemon.write_agent_file("models.json", models)


def default_settings(daemon, **compaction):
    daemon.write_agent_file("settings.json", {"retry": {"baseDelayMs": 20}, "compaction": compaction})


def restart(daemon):
    daemon.signal(signal.SIGKILL)
    daemon.wait_exit()
    daemon.start()


PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
MEGABYTE = "log follows: " + "2026-01-01 error something\n" * 38_000 + "the end"


@pytest.mark.parametrize("enabled", [True, False], ids=["compaction on", "compaction off"])
@pytest.mark.parametrize("api", MODELS)
def test_a_prompt_that_is_longer_than_the_window_does_not_end_its_session(daemon, model, api, enabled):
    default_settings(daemon, enabled=enabled)
    window = Window(model, 200_000, api)
    daemon.session("s", "hello", model=MODELS[api]).text()
    daemon.prompt("s", "hello 2").text()
    assert daemon.prompt("s", MEGABYTE).text() == "ok"
    # The model sees both ends of it, and that something is missing.
    prompt = model.requests[-1].prompts[-1]
    assert prompt.startswith("log follows: ") and prompt.endswith("the end") and "bytes are left out here" in prompt
    # It is known to be too long, before the server says so; and it stays short, after a restart too.
    assert window.refused == 0 and "summary" not in kinds(model)
    assert daemon.prompt("s", "never mind. 1+1?").text() == "ok"
    before = model.requests[-1].conversation
    restart(daemon)
    assert daemon.prompt("s", "and 2+2?").text() == "ok"
    assert (window.refused, len(model.requests)) == (0, 5)
    assert model.requests[-1].conversation == [*before, ("assistant", "ok"), ("user", "and 2+2?")]
    # The file has all of it.
    assert MEGABYTE in [text for path in daemon.session_files() for text in texts(path)]


def texts(path):
    """The texts of the messages in a session file."""
    for line in path.read_text().splitlines():
        content = json.loads(line).get("message", {}).get("content", [])
        yield from [content] if isinstance(content, str) else (block["text"] for block in content if "text" in block)


@pytest.mark.parametrize("declared", [8000, 200_000, 1_000_000])
def test_a_first_prompt_that_is_too_long_is_answered(daemon, model, declared):
    """Whatever the configuration says of the window, which is one of 10,000 tokens here."""
    default_settings(daemon)
    set_window(daemon, declared)
    window = Window(model, 10_000)
    assert daemon.run("begin " + "word " * 12_000 + "end").text() == "ok"
    assert window.refused <= 3
    assert model.requests[-1].prompts[-1].startswith("begin ") and model.requests[-1].prompts[-1].endswith(" end")


def test_a_window_that_is_smaller_than_configured_is_not_run_into_again_and_again(daemon, model):
    default_settings(daemon)
    window = Window(model, 12_000)
    daemon.session("s", "begin").text()
    for number in range(12):
        assert daemon.prompt("s", f"prompt {number} " + "word " * 1500).text() == "ok"
    # At most every other prompt fills it up again.
    assert window.refused <= 8
    assert len(model.requests) <= 13 + window.refused + 8


@pytest.mark.parametrize("api", MODELS)
def test_results_of_one_turn_that_are_too_long_together_are_shortened(daemon, model, api):
    default_settings(daemon)
    reads = []
    for number in range(18):
        (daemon.cwd / f"{number}.txt").write_text(f"begin {number}\n" + f"{'line ' * 19}\n" * 500 + f"end {number}\n")
        reads.append(ToolCall("read", {"path": f"{number}.txt"}))
    window = Window(model, 200_000, api, turns=[reads])
    assert daemon.run("read all of them", model=MODELS[api]).text() == "ok"
    assert (window.refused, kinds(model)) == (0, ["turn", "turn"])
    results = model.requests[-1].tool_results
    assert len(results) == 18
    for number, (text, _) in enumerate(results):
        assert text.startswith(f"begin {number}") and f"end {number}" in text and "bytes are left out here" in text
        assert 15_000 < len(text) < 30_000
    if api == "anthropic-messages":
        assert_calls_and_results_match(model.requests[-1])


def test_results_that_the_server_counts_as_more_are_shortened_after_its_refusal(daemon, model):
    """Our estimate says that they fit."""
    default_settings(daemon)
    (daemon.cwd / "long.txt").write_text("0123456789\n" * 4000)
    window = Window(model, 10_000, turns=[[ToolCall("read", {"path": "long.txt"}) for _ in range(2)]])
    assert daemon.session("s", "read it twice").text() == "ok"
    assert 1 <= window.refused <= 3
    refused = window.refused
    restart(daemon)
    assert daemon.prompt("s", "go on").text() == "ok"
    assert window.refused == refused


def test_a_compaction_that_is_dated_ahead_does_not_stop_later_ones(daemon, model):
    """Another host's clock, or this one's before it was set back: the order of the entries counts."""
    from test_resume import PiFile

    default_settings(daemon)
    set_window(daemon, 8000)
    file = PiFile(daemon)
    file.user("old prompt")
    kept = file.user("kept prompt")
    file.assistant("kept answer")
    file.entry("compaction", summary="## Goal\nOld things.", firstKeptEntryId=kept, tokensBefore=1000)
    file.lines[-1] = file.lines[-1].replace("2026-01-01", "2999-01-01")
    file.save()
    window = Window(model, 8000)
    # What the server counts is what it checks.
    window.turns = [["answer " + "a" * 1500, Usage(input=0, output=0)]] * 20
    daemon.session("s", "p" * 2500, resume=str(file.path)).text()
    for _ in range(14):
        assert daemon.prompt("s", "p" * 2500).text().startswith("answer")
    assert window.refused == 0
    assert 1 <= kinds(model).count("summary") <= 6
    assert "## Goal\nOld things." in next(r for r in model.requests if is_summary_request(r)).prompts[-1]


def test_a_long_task_and_what_was_said_before_it_reach_the_summary(daemon, model):
    default_settings(daemon)
    set_window(daemon, 32_000)
    read = ToolCall("bash", {"command": "seq 1 7000 | paste -sd ' ' | fold -w 90"})
    Window(model, 32_000, turns=["understood", "started"] + [[read], "went on"] * 8)
    daemon.session("s", "Earlier instruction: never touch prod.").text()
    daemon.prompt("s", "TASK-MARKER " + "do this and that. " * 4200 + "TASK-END").text()
    for _ in range(8):
        assert daemon.prompt("s", "go on").text() == "went on"
    summaries = [request.prompts[-1] for request in model.requests if is_summary_request(request)]
    assert summaries
    for part in ("Earlier instruction: never touch prod.", "TASK-MARKER", "TASK-END"):
        assert part in summaries[0], part
    # What was read just now is there in full.
    last = [request for request in model.requests if request.tool_results][-1]
    assert last.tool_results[-1][0].rstrip().endswith("7000")


@pytest.mark.parametrize("summary", [Failure(400, "no summary today"), [Text(""), Stop("end_turn")], TOO_LONG],
                         ids=["refused", "empty", "too long"])
def test_where_no_summary_can_be_had_excerpts_take_its_place(daemon, model, summary):
    configure(daemon)
    begin(daemon, model)
    window = Window(model, 200_000, summary=summary, turns=[TOO_LONG, "fits now", "and on"])
    assert daemon.prompt("s", f"the newest {LONG}").text() == "fits now"
    first = model.requests[-1].prompts[0]
    assert first.startswith(LEAD_IN) and "[User]: first prompt" in first and "[Assistant]: first answer" in first
    before = model.requests[-1].conversation
    restart(daemon)
    assert daemon.prompt("s", "third prompt").text() == "and on"
    assert model.requests[-1].conversation == [*before, ("assistant", "fits now"), ("user", "third prompt")]
    assert window.refused == 0


def test_without_compaction_many_small_messages_get_out_too(daemon, model):
    default_settings(daemon, enabled=False)
    set_window(daemon, 8000)
    window = Window(model, 8000)
    daemon.session("s", "the very first").text()
    for number in range(40):
        assert daemon.prompt("s", f"prompt {number} " + "w" * 900).text() == "ok"
    assert "summary" not in kinds(model)
    assert window.refused <= 10


def test_a_window_smaller_than_the_system_prompt_is_an_error_that_says_so(daemon, model):
    default_settings(daemon)
    set_window(daemon, 1000)
    Window(model, 500)
    failed = daemon.session("s", "hello").failure()
    assert "prompt is too long" in failed.text and "the system prompt and the tools alone take about" in failed.text
    assert len(model.requests) == 1
    assert "prompt is too long" in daemon.prompt("s", "hello again").failure().text


def test_the_number_of_requests_is_bounded_and_the_next_prompt_is_answered(daemon, model):
    default_settings(daemon)
    model.answer(lambda _: TOO_LONG)
    failed = daemon.session("s", "begin " + "word " * 20_000).failure()
    assert "prompt is too long" in failed.text
    assert len(model.requests) == 4
    model.answer(lambda _: "fine")
    assert daemon.prompt("s", "and now?").text() == "fine"


def test_what_was_said_stays_where_the_window_is_not_full(daemon, model):
    """The server counts nothing, or has a lower limit of its own."""
    begin(daemon, model)
    for number, usage in enumerate([Usage(), Usage(input=100, output=128), Usage(input=120_000, output=128)]):
        model.script([Text(f"half {number}"), Stop("max_tokens"), usage])
        assert daemon.prompt("s", "go on").text() == f"half {number}"
    model.script("the rest")
    daemon.prompt("s", "go on").text()
    assert [text for role, text in model.requests[-1].conversation if role == "assistant"][1:] == ["half 0", "half 1", "half 2"]
    assert kinds(model) == ["turn"] * 5


def test_thoughts_that_filled_the_window_are_no_answer(daemon, model):
    begin(daemon, model, "scripted/thinker")
    model.script([Thinking("hm"), Stop("max_tokens"), Usage(input=195_000, output=900)], SUMMARY, "whole")
    assert daemon.prompt("s", LONG).text() == "whole"
    assert kinds(model) == ["turn", "turn", "summary", "turn"]


@pytest.mark.parametrize("count", [1, 120])
def test_images_give_way_too(daemon, model, count):
    """An image counts for 1,200 tokens; the server takes no more than 40 of them."""
    default_settings(daemon)
    change_models(daemon, input=["text", "image"], contextWindow=100_000)
    (daemon.cwd / "a.png").write_bytes(base64.b64decode(PIXEL))
    calls = [ToolCall("read", {"path": "a.png"}) for _ in range(count)]

    def answer(request):
        images = json.dumps(request.body).count('"media_type"')
        if images > 40:
            return TOO_LONG
        return "seen" if request.tool_results else calls

    model.answer(answer)
    assert daemon.run("look").text() == "seen"
    last = json.dumps(model.requests[-1].body)
    assert 1 <= last.count('"media_type"') <= min(count, 40)
    assert ("An image is left out here" in last) == (count > 40)


def test_a_compaction_that_is_asked_for_takes_any_length(daemon, model):
    """The conversation is longer than the window that the summary is written in."""
    default_settings(daemon)
    Window(model, 200_000)
    daemon.session("s", "TASK-MARKER " + "word " * 100_000).text()
    daemon.prompt("s", "second " + "word " * 20_000).text()
    set_window(daemon, 20_000)
    daemon.bus.ask_json(f"{daemon.subject('s')}.configure", {"model": MODELS["openai-completions"]})
    window = Window(model, 20_000, "openai-completions")
    done = json.loads(daemon.bus.ask(f"{daemon.subject('s')}.compact", b"{}").data)
    assert done["summary"].startswith(SUMMARY)
    assert any("TASK-MARKER" in request.prompts[-1] for request in model.requests if is_summary_request(request))
    assert daemon.prompt("s", "third").text() == "ok"
    assert window.refused <= 2


def test_a_session_of_one_long_prompt_can_be_compacted_by_hand(daemon, model):
    default_settings(daemon)
    set_window(daemon, 400_000)
    Window(model, 400_000)
    assert daemon.session("s", "TASK-MARKER " + "word " * 200_000 + "TASK-END").text() == "ok"
    set_window(daemon, 200_000)
    daemon.bus.ask_json(f"{daemon.subject('s')}.configure", {"model": MODELS["openai-completions"]})
    window = Window(model, 200_000, "openai-completions")
    with Bridge(daemon.session_socket("s")) as client:
        assert SUMMARY in client.ask("compact")["summary"]
        assert "already compacted" in client.refusal("compact").lower()
    prompt = model.requests[-1].prompts[-1]
    assert "TASK-MARKER" in prompt and "TASK-END" in prompt
    assert daemon.prompt("s", "go on").text() == "ok"
    assert window.refused == 0
    assert [role for role, _ in model.requests[-1].conversation] == ["user", "assistant", "user"]


def test_an_overflow_in_the_middle_of_a_call_is_got_over(daemon, model):
    """What a local server says when its window is full while it generates."""
    begin(daemon, model)
    error = {"type": "error", "error": {"type": "api_error", "message": "Context size has been exceeded."}}
    call = ToolCall("bash", {"command": "echo ran >> ran.txt"})
    model.script([call, Raw(f"event: error\ndata: {json.dumps(error)}\n\n"), Unterminated()], SUMMARY, "whole")
    assert daemon.prompt("s", LONG).text() == "whole"
    assert kinds(model) == ["turn", "turn", "summary", "turn"]
    assert not (daemon.cwd / "ran.txt").exists()


def test_a_run_does_not_wait_for_a_summary_that_nobody_will_read(daemon, model):
    model.script(["done", tokens(FULL)])
    assert daemon.run(LONG).text() == "done"
    assert kinds(model) == ["turn"]


@pytest.mark.parametrize("enabled", [True, False], ids=["compaction on", "compaction off"])
def test_what_a_server_took_silently_and_counted_as_too_long_is_shorter_the_next_time(daemon, model, enabled):
    """It has twice as many tokens as our estimate says."""
    default_settings(daemon, enabled=enabled)
    counts = []

    def answer(request):
        if is_summary_request(request):
            return SUMMARY
        counts.append(len(json.dumps(request.body)) // 2)
        return ["ok", Usage(input=counts[-1], output=10)]

    model.answer(answer)
    daemon.session("s", "begin").text()
    daemon.prompt("s", "0123456789" * 50_000).text()
    assert daemon.prompt("s", "go on").text() == "ok"
    assert counts[1] > 200_000 and counts[2] < 200_000
