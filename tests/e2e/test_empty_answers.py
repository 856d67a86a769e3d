"""Answers with nothing in them: asked for again once, then an error, whatever they ended for."""

import pytest

from support.agents import prompt
from support.daemon import MODELS
from support.model_script import Failure, Stop, Text, Thinking, ToolCall, Usage

pytestmark = pytest.mark.any_server

NOTHING = {"no text": [Text("")], "blank": [Text(" \n")], "thoughts": [Thinking("hm")], "both": [Thinking("hm"), Text("")]}
LIMITS = {
    "anthropic-messages": "max_tokens",
    "openai-completions": "length",
    "openai-responses": "max_output_tokens",
    "google-generative-ai": "MAX_TOKENS",
}


def assert_empty(failed):
    assert failed.text == "error: empty_answer: the model's answer was empty, also when it was asked again"
    assert (failed.code, failed.word) == (500, "empty_answer")


@pytest.mark.parametrize("nothing", NOTHING.values(), ids=NOTHING)
@pytest.mark.parametrize("spec", MODELS.values(), ids=MODELS)
def test_the_model_is_asked_once_more(daemon, model, spec, nothing):
    model.script(nothing, "better")
    assert daemon.run("one", model=spec).text().strip() == "better"
    assert len(model.requests) == 2
    assert model.requests[1].conversation == [("user", "one")]


@pytest.mark.parametrize("spec", MODELS.values(), ids=MODELS)
def test_twice_is_an_error_and_the_conversation_goes_on(daemon, model, spec):
    model.script([Text("")], [Thinking("hm")], "better")
    assert_empty(daemon.session("s", "one", model=spec).failure())
    assert len(model.requests) == 2
    assert daemon.prompt("s", "two").text() == "better"
    assert [role for role, _ in model.requests[2].conversation if role == "assistant"] == []
    assert model.requests[2].prompts in (["one", "two"], ["onetwo"], ["one\ntwo"])


@pytest.mark.parametrize("reason", ["tool_use", "end_turn", "stop_sequence", None])
def test_after_a_tools_result(daemon, model, reason):
    """Input of the report: the reason "tool use" and no block at all."""
    empty = [Stop(reason)] if reason else []
    model.script([ToolCall("ls", {})], empty or [Text("")], empty or [Text("")])
    assert_empty(daemon.session("s", "one").failure())
    assert len(model.requests) == 3
    model.script("fine")
    assert daemon.prompt("s", "two").text() == "fine"
    assert len(model.requests[3].tool_results) == 1


@pytest.mark.parametrize("api", LIMITS)
def test_thoughts_alone_up_to_the_limit(daemon, model, api):
    # As many tokens as the model can write: there was room for an answer.
    cut = [Thinking("hm"), Usage(10, 1_000_000), Stop(LIMITS[api])]
    model.script(cut, "better", cut, cut)
    assert daemon.session("s", "one", model=MODELS[api]).text() == "better"
    assert_empty(daemon.prompt("s", "two").failure())


def test_it_is_no_retry_of_a_failure(daemon, model):
    """Nor does it count as one: the settings for failures do not matter."""
    daemon.write_agent_file("settings.json", {"retry": {"enabled": False}})
    model.script([Text("")], "better")
    assert daemon.run("one").text() == "better"
    daemon.write_agent_file("settings.json", {"retry": {"baseDelayMs": 20, "maxRetries": 1}})
    model.script(Failure(529, "busy"), [Text("")], "better")
    assert daemon.run("one").text() == "better"


def test_every_answer_has_its_own_second_chance(daemon, model):
    model.script([Text("")], [ToolCall("ls", {})], [Text("")], "done")
    assert daemon.run("one").text() == "done"
    assert len(model.requests) == 4


def test_the_agent_wire_has_the_same_error(daemon, model):
    model.script("hello", [Text("")], [Text("")])
    daemon.session("s", "hi").text()
    status, document = prompt(daemon, "s", "x").ack().failure()
    assert (status, document["error"]) == (500, "empty_answer")
