"""What is larger than the model's window: an error or a shortened text, never a dead session and never a lost task."""

import json
import signal

import pytest

from support import provider_rules
from support.model_script import Failure, Text, ToolCall, Usage
from support.strict_model import api_of, at_the_limit, change_models, refuse, spec_of, strictly, tokens_of, within

pytestmark = pytest.mark.any_server

APIS = provider_rules.APIS
SUMMARY = "## Goal\nTo test."
LOG_LINE = "2026-01-01 error something\n"


@pytest.fixture
def new_window(new_daemon):
    """Makes daemons that run, whose models have a window of so many tokens."""

    def make(window, settings=None):
        daemon = new_daemon()
        change_models(daemon, contextWindow=window, maxTokens=min(8192, window // 4))
        daemon.write_agent_file("settings.json", {"retry": {"baseDelayMs": 20}, **(settings or {})})
        return daemon.start()

    return make


def is_summary(request):
    return not provider_rules.offers_tools(api_of(request), request.body)


def answering(request):
    """A summary where one is asked for, else the last words of the prompt."""
    return SUMMARY if is_summary(request) else f"answer: {request.prompts[-1][-20:]}"


def prompt_or_error(stream):
    """The text, or None where the stream ended with an error."""
    try:
        return stream.text(timeout=40)
    except AssertionError as failed:
        if not hasattr(failed, "description"):
            raise
        stream.terminator()
        return None


# Size of the window, and how often the line is said: 1 MB for a usual window, 80 KB for a small one.
SIZES = [pytest.param(200_000, 38_000, id="usual window"), pytest.param(16_000, 3_000, id="small window")]


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize(("window", "lines"), SIZES)
def test_a_prompt_larger_than_the_window_in_mid_conversation(new_window, model, api, window, lines):
    daemon = new_window(window)
    model.answer(strictly(within(window, answering)))
    assert daemon.session("s", "hello", model=spec_of(api)).text() == "answer: hello"
    assert daemon.prompt("s", "hello 2").text() == "answer: hello 2"
    prompt_or_error(daemon.prompt("s", "log follows: " + LOG_LINE * lines))
    assert daemon.prompt("s", "never mind. 1+1?").text() == "answer: never mind. 1+1?"
    assert daemon.prompt("s", "and 2+2?").text() == "answer: and 2+2?"
    daemon.signal(signal.SIGKILL)
    daemon.wait_exit()
    daemon.start()
    assert daemon.prompt("s", "still there?").text() == "answer: still there?"


@pytest.mark.parametrize("api", APIS)
def test_a_first_prompt_larger_than_the_window(new_window, model, api):
    daemon = new_window(16_000)
    model.answer(strictly(within(16_000, answering)))
    prompt_or_error(daemon.session("s", LOG_LINE * 3_000, model=spec_of(api)))
    assert daemon.prompt("s", "never mind. 1+1?").text() == "answer: never mind. 1+1?"
    # A run has no later prompt; it ends in time, with an answer or an error.
    prompt_or_error(daemon.run(LOG_LINE * 3_000, model=spec_of(api)))


def test_large_prompts_one_after_the_other(new_window, model):
    daemon = new_window(16_000)
    model.answer(strictly(within(16_000, answering)))
    assert daemon.session("s", "hello").text() == "answer: hello"
    for number in range(3):
        prompt_or_error(daemon.prompt("s", LOG_LINE * 3_000))
        assert daemon.prompt("s", f"and {number}?").text() == f"answer: and {number}?"


def test_a_large_prompt_while_compaction_is_switched_off(new_window, model):
    daemon = new_window(16_000, {"compaction": {"enabled": False}})
    model.answer(strictly(within(16_000, answering)))
    assert daemon.session("s", "hello").text() == "answer: hello"
    prompt_or_error(daemon.prompt("s", LOG_LINE * 3_000))
    assert daemon.prompt("s", "and now?").text() == "answer: and now?"


def test_a_window_that_is_smaller_than_was_said(new_window, model):
    """models.json says 200,000; the server was started with less."""
    daemon = new_window(200_000)
    model.answer(strictly(within(16_000, answering)))
    assert daemon.session("s", "hello").text() == "answer: hello"
    prompt_or_error(daemon.prompt("s", LOG_LINE * 3_000))
    assert daemon.prompt("s", "never mind. 1+1?").text() == "answer: never mind. 1+1?"


def reading(files):
    """A model that reads all files in one answer, when it has no result yet."""

    def answer(request):
        if is_summary(request):
            return SUMMARY
        if request.tool_results or "summary" in request.prompts[0]:
            return "read"
        return [ToolCall("read", {"path": name}) for name in files]

    return answer


@pytest.mark.parametrize(
    ("mode", "api", "window", "count"),
    [
        *(("run", api, 200_000, 18) for api in APIS),
        ("session", "anthropic-messages", 200_000, 18),
        ("session", "anthropic-messages", 32_000, 4),
        ("run", "openai-completions", 32_000, 12),
        ("session", "openai-responses", 16_000, 2),
        ("run", "google-generative-ai", 16_000, 2),
    ],
)
def test_results_larger_than_the_window(new_window, model, mode, api, window, count):
    """Files of 50 KB that are read in parallel."""
    daemon = new_window(window)
    files = [f"file{number}.txt" for number in range(count)]
    for name in files:
        (daemon.cwd / name).write_text("x" * 49 + "\n" + "y 1 2 3 4 5 6 7 8 9\n" * 2_500)
    model.answer(strictly(within(window, reading(files))))
    if mode == "run":
        assert daemon.run("read them", model=spec_of(api)).text(timeout=40) == "read"
    else:
        assert daemon.session("s", "hello", model=spec_of(api)).text(timeout=40) == "read"
        assert daemon.prompt("s", "and then?").text(timeout=40) == "read"
    # Something of the results is still there.
    assert any("1 2 3 4" in text for text, _ in model.requests[-1].tool_results) or mode == "session"


def test_one_result_larger_than_the_window(new_window, model):
    daemon = new_window(12_000)
    (daemon.cwd / "file.txt").write_text("beginning\n" + "y 1 2 3 4 5 6 7 8 9\n" * 2_400 + "ending\n")
    model.answer(strictly(within(12_000, reading(["file.txt"]))))
    assert daemon.run("read it").text(timeout=40) == "read"


def moved(path, years):
    """Dates the compaction entry of a file anew."""
    lines = []
    for line in path.read_text().splitlines():
        entry = json.loads(line)
        if entry["type"] == "compaction":
            entry["timestamp"] = f"{2026 + years}-11-28T00:00:00.000Z"
        lines.append(json.dumps(entry))
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("years", [1, -1], ids=["from the future", "from the past"])
@pytest.mark.parametrize("how", ["resume", "restart"])
def test_the_order_of_entries_decides_not_their_dates(new_window, model, years, how):
    window = 8_000
    daemon = new_window(window, {"compaction": {"reserveTokens": 1_000, "keepRecentTokens": 700}})

    def answer(request):
        return SUMMARY if is_summary(request) else "answer " + "w " * 750

    model.answer(strictly(within(window, answer)))
    prompt = "prompt " + "p " * 1_250
    daemon.session("s", prompt).text()
    for _ in range(12):
        daemon.prompt("s", prompt).text()
    (path,) = daemon.session_files()
    assert '"type":"compaction"' in path.read_text().replace(" ", "")
    if how == "resume":
        daemon.stop_session("s")
        moved(path, years)
        daemon.session("s", prompt, resume=str(path)).text()
    else:
        daemon.signal(signal.SIGTERM)
        daemon.wait_exit()
        moved(path, years)
        daemon.start()
    summaries = sum(map(is_summary, model.requests))
    for _ in range(12):
        assert daemon.prompt("s", prompt).text().startswith("answer")
    assert sum(map(is_summary, model.requests)) > summaries


@pytest.mark.parametrize(
    ("api", "window", "size"),
    [*((api, 32_000, 76_000) for api in APIS), ("anthropic-messages", 200_000, 500_000)],
)
def test_a_long_task_is_in_the_summarys_input(new_window, model, api, window, size):
    daemon = new_window(window)
    (daemon.cwd / "file.txt").write_text("y 1 2 3 4 5 6 7 8 9\n" * 2_000)
    seen = []

    def answer(request):
        if is_summary(request):
            text = json.dumps(request.body)
            seen.append({word for word in ("TASK-MARKER", "TASK-END", "never touch prod") if word in text})
            # A good summary keeps what it was told.
            return "## Goal\n" + " ".join(sorted(seen[-1]))
        if request.prompts[-1].startswith("go on") and not provider_rules.ends_with_results(api_of(request), request.body):
            return [ToolCall("read", {"path": "file.txt"})]
        return "done"

    model.answer(strictly(within(window, answer)))
    assert daemon.session("s", "Earlier instruction: never touch prod.", model=spec_of(api)).text() == "done"
    task = "TASK-MARKER " + "do this and that. " * (size // 18) + " TASK-END"
    assert daemon.prompt("s", task).text(timeout=30) == "done"
    for _ in range(8):
        assert daemon.prompt("s", "go on").text(timeout=30) == "done"
    assert seen, "there was nothing to summarise"
    # It is either still there as it was said, or in a summary.
    last = json.dumps(model.requests[-1].body)
    missing = [word for word in ("TASK-MARKER", "never touch prod") if word not in last]
    assert not missing, f"{missing} got lost; summaries were asked of {seen}"
    assert "TASK-END" in set().union(*seen) or "TASK-END" in last


@pytest.mark.parametrize("api", APIS)
def test_a_summary_that_does_not_fit(new_window, model, api):
    """The conversation alone is more than the window takes, because its model had a larger one."""
    daemon = new_window(200_000)
    model.answer(strictly(within(200_000, answering)))
    assert daemon.session("s", "hello", model=spec_of(api)).text() == "answer: hello"
    for number in range(4):
        daemon.prompt("s", f"part {number} " + LOG_LINE * 3_000).text()
    daemon.signal(signal.SIGTERM)
    daemon.wait_exit()
    change_models(daemon, contextWindow=16_000)
    model.answer(strictly(within(16_000, answering)))
    daemon.start()
    assert daemon.prompt("s", "go on").text(timeout=40) == "answer: go on"


# Words of servers whose request is too long, with the status that they come with.
OVERFLOWS = [
    (400, "prompt is too long: 213462 tokens > 200000 maximum", "anthropic-messages"),
    (413, "Request exceeds the maximum size", "anthropic-messages"),
    (400, "input length and `max_tokens` exceed context limit: 199000 + 8192 > 200000, decrease one of them", "anthropic-messages"),
    (400, "This model's maximum context length is 8192 tokens. However, you requested 9000 tokens", "openai-completions"),
    (400, "the request exceeds the available context size (16384 tokens), try increasing it", "openai-completions"),
    (400, "Input token length of 200001 exceeds the maximum allowed input length of 131072 tokens", "openai-completions"),
    (400, "Please reduce the length of the messages or completion.", "openai-completions"),
    (400, "Range of input length should be [1, 129024]", "openai-completions"),
    (400, "Your request exceeded model token limit: 131072", "openai-completions"),
    (400, "Your input exceeds the context window of this model. Please adjust your input and try again.", "openai-responses"),
    (400, "The input token count (1196265) exceeds the maximum number of tokens allowed (1048575).", "google-generative-ai"),
]


@pytest.mark.parametrize(("status", "words", "api"), OVERFLOWS, ids=range(len(OVERFLOWS)))
def test_an_overflow_in_the_words_of_a_server_is_got_over(new_window, model, status, words, api):
    daemon = new_window(200_000, {"compaction": {"keepRecentTokens": 500}})
    model.answer(strictly(answering))
    daemon.session("s", "first " + LOG_LINE * 200, model=spec_of(api)).text()

    def answer(request):
        return refuse(request, words, status) if tokens_of(request) > 6_000 else answering(request)

    daemon.prompt("s", "second " + LOG_LINE * 200).text()
    model.answer(strictly(answer))
    assert daemon.prompt("s", "go on").text() == "answer: go on"


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("counted", [False, True], ids=["no counts", "a lower cap"])
def test_a_length_stop_is_one_and_what_was_said_stays(new_window, model, api, counted):
    daemon = new_window(200_000)
    step = [Usage(100, 128)] if counted else [Usage(0, 0)]

    def answer(request):
        if len(request.prompts) == 1:
            return [Text("half of it"), at_the_limit(request), *step]
        return "the other half"

    model.answer(strictly(answer))
    assert daemon.session("s", "go", model=spec_of(api)).text() == "half of it"
    assert daemon.prompt("s", "go on").text() == "the other half"
    assert len(model.requests) == 2
    assert ("assistant", "half of it") in model.requests[-1].conversation


def test_a_failure_that_is_no_overflow_compacts_nothing(new_window, model):
    daemon = new_window(200_000)
    model.answer(strictly(answering))
    daemon.session("s", "first " + LOG_LINE * 200).text()
    model.script(Failure(400, "the length of the field metadata exceeds the limit"))
    daemon.prompt("s", "second").failure()
    assert not any(map(is_summary, model.requests))
    assert daemon.prompt("s", "third").text() == "answer: third"
