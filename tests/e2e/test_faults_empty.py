"""Answers with nothing in them: asked for once more, then an error that says so."""

import pytest

from support import provider_rules
from support.model_script import Stop, Text, Thinking, ToolCall
from support.provider_cases import take
from support.strict_model import spec_of, strictly

pytestmark = pytest.mark.any_server

APIS = provider_rules.APIS
# The reasons for an end, in the words of the APIs. Responses tell a usual end and a limit apart, nothing else.
REASONS = {
    "usual": dict.fromkeys(APIS),
    "tool use": {"anthropic-messages": "tool_use", "openai-completions": "tool_calls", "google-generative-ai": "STOP"},
    "limit": {
        "anthropic-messages": "max_tokens", "openai-completions": "length", "openai-responses": "max_output_tokens",
        "google-generative-ai": "MAX_TOKENS",
    },
    "pause": {"anthropic-messages": "pause_turn"},
    "unknown": {"anthropic-messages": "eos", "openai-completions": "eos"},
}
PAIRS = [pytest.param(api, reason, id=f"{api}-{name}") for name, words in REASONS.items() for api, reason in words.items()]


def empty(reason):
    return [Text(""), *([Stop(reason)] if reason else [])]


@pytest.mark.parametrize(("api", "reason"), PAIRS)
def test_an_empty_answer_after_a_result_is_asked_for_once_more(daemon, model, api, reason):
    model.script([ToolCall("bash", {"command": "echo a >> ran.txt"})])
    answers = iter([None, "whole"])
    model.answer(strictly(lambda request: next(answers) or empty(reason)))
    assert daemon.session("s", "go", model=spec_of(api)).text() == "whole"
    assert len(model.requests) == 3
    assert (daemon.cwd / "ran.txt").read_text() == "a\n"


@pytest.mark.parametrize(("api", "reason"), PAIRS)
@pytest.mark.parametrize("after_result", [False, True], ids=["first", "after a result"])
def test_answers_that_stay_empty_are_an_error(daemon, model, api, reason, after_result):
    if after_result:
        model.script([ToolCall("bash", {"command": "true"})])
    model.answer(strictly(lambda request: empty(reason)))
    failed = daemon.session("s", "go", model=spec_of(api)).failure()
    assert "empty" in failed.text.lower() and failed.description and failed.code >= 400
    # Not for ever: the callers wait.
    assert len(model.requests) <= 5
    model.answer(strictly(lambda request: "better"))
    assert daemon.prompt("s", "again").text() == "better"


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("mode", ["run", "session"])
def test_thoughts_alone_are_no_answer(daemon, model, api, mode):
    answers = iter([[Thinking("hm")], "whole", *[[Thinking("hm")]] * 5])
    model.answer(strictly(lambda request: next(answers)))
    start = daemon.run if mode == "run" else lambda body, **fields: daemon.session("s", body, **fields)
    assert start("go", model=spec_of(api)).text() == "whole"
    assert len(model.requests) == 2
    assert "empty" in daemon.run("go", model=spec_of(api)).failure().text.lower()


@pytest.mark.parametrize("api", APIS)
def test_blanks_alone_are_an_answer_or_empty(daemon, model, api):
    """Either is right, but the session goes on."""
    model.answer(strictly(lambda request: [Text(" \n")]))
    text, error = take(daemon.session("s", "go", model=spec_of(api)))
    assert (error is None and text.strip() == "") or "empty" in error.lower()
    model.answer(strictly(lambda request: "better"))
    assert daemon.prompt("s", "again").text() == "better"
