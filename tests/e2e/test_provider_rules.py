"""The checker of requests itself: it takes what services take, and refuses what they refuse."""

import copy

import pytest

from support import provider_cases
from support.provider_rules import ANTHROPIC, COMPLETIONS, GOOGLE, RESPONSES, signature, violation

pytestmark = pytest.mark.any_server

CALL = {"type": "tool_use", "id": "a", "name": "bash", "input": {}}
RESULT = {"type": "tool_result", "tool_use_id": "a", "content": "out"}
SIGNED = {"type": "thinking", "thinking": "t", "signature": "c2ln"}


def anthropic(*messages):
    roles = ("user", "assistant") * len(messages)
    return {"messages": [{"role": role, "content": content} for role, content in zip(roles, messages)]}


def chat(*messages):
    return {"messages": [{"role": "user", "content": "go"}, *messages]}


def chat_call(name="bash", call_id="a", arguments="{}"):
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def calling(*calls):
    return {"role": "assistant", "content": None, "tool_calls": list(calls)}


def said(call_id="a"):
    return {"role": "tool", "tool_call_id": call_id, "content": "out"}


def responses(*items):
    return {"input": [{"role": "user", "content": "go"}, *items]}


def item(call_id="a", **fields):
    return {"type": "function_call", "call_id": call_id, "name": "bash", "arguments": "{}", **fields}


def output(call_id="a"):
    return {"type": "function_call_output", "call_id": call_id, "output": "out"}


REASONING = {"type": "reasoning", "id": "rs", "summary": []}
WORDS = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "words"}]}


def google(*contents):
    return {"contents": [{"role": "user", "parts": [{"text": "go"}]}, *contents]}


def turn(*parts):
    return {"role": "model", "parts": list(parts)}


def results(*names):
    return {"role": "user", "parts": [{"functionResponse": {"name": name, "response": {}}} for name in names]}


def function(name="bash", **fields):
    return {"functionCall": {"name": name, "args": {}}, **fields}


GOOD = [
    (ANTHROPIC, anthropic("go", [SIGNED, CALL], [RESULT, {"type": "text", "text": "and"}])),
    (ANTHROPIC, anthropic("go", "words", "and")),
    (COMPLETIONS, chat(calling(chat_call(), chat_call(call_id="b")), said("b"), said(), {"role": "assistant", "content": "x"})),
    (RESPONSES, responses(REASONING, {**REASONING, "id": "rs2"}, item(), WORDS, output())),
    (RESPONSES, responses(REASONING, WORDS)),
    (GOOGLE, google(turn({"text": "x"}, function("a.b:c"), function()), results("bash", "a.b:c"))),
]
BAD = [
    (ANTHROPIC, anthropic("go", "words"), "user message"),
    (ANTHROPIC, anthropic("go", [], "and"), "non-empty"),
    (ANTHROPIC, anthropic("go", [{"type": "text", "text": " \n"}], "and"), "non-empty"),
    (ANTHROPIC, anthropic("go", [{**SIGNED, "signature": ""}, CALL], [RESULT]), "signature"),
    (ANTHROPIC, anthropic("go", [SIGNED], "and"), "final block"),
    (ANTHROPIC, anthropic("go", [{"type": "redacted_thinking", "data": "x"}], "and"), "final block"),
    (ANTHROPIC, anthropic("go", [CALL], "and"), "without `tool_result`"),
    (ANTHROPIC, anthropic("go", "words", [RESULT]), "unexpected `tool_use_id`"),
    (ANTHROPIC, anthropic("go", [CALL], [RESULT, RESULT]), "single result"),
    (ANTHROPIC, anthropic("go", [CALL], [{"type": "text", "text": "x"}, RESULT]), "before all other"),
    (ANTHROPIC, anthropic("go", [CALL], [RESULT], [CALL], [RESULT]), "unique"),
    (ANTHROPIC, anthropic("go", [{**CALL, "name": ""}], [RESULT]), "pattern"),
    (ANTHROPIC, anthropic("go", [{**CALL, "id": ""}], [{**RESULT, "tool_use_id": ""}]), "at least 1"),
    (ANTHROPIC, anthropic("go", [{**CALL, "input": "{}"}], [RESULT]), "dictionary"),
    (COMPLETIONS, chat(calling(chat_call())), "did not have response"),
    (COMPLETIONS, chat(calling(chat_call()), {"role": "user", "content": "x"}, said()), "did not have response"),
    (COMPLETIONS, chat(said()), "must be a response"),
    (COMPLETIONS, chat(calling(chat_call(), chat_call()), said(), said()), "Duplicate"),
    (COMPLETIONS, chat(calling(chat_call("x" * 65)), said()), "pattern"),
    (COMPLETIONS, chat(calling(chat_call(arguments="[]")), said()), "object"),
    (COMPLETIONS, chat(calling(chat_call(arguments="{")), said()), "valid JSON"),
    (COMPLETIONS, chat({"role": "assistant", "content": None}), "must be set"),
    (RESPONSES, responses(item()), "No tool output"),
    (RESPONSES, responses(output()), "No tool call"),
    (RESPONSES, responses(item(), output(), item(), output()), "Duplicate"),
    (RESPONSES, responses(item(id="x"), output(), item("b", id="x"), output("b")), "Duplicate item"),
    (RESPONSES, responses(item(id=""), output()), "empty"),
    (RESPONSES, responses(item(name="a.b"), output()), "pattern"),
    (RESPONSES, responses(WORDS, REASONING), "required following item"),
    (RESPONSES, responses(REASONING, {"role": "user", "content": "x"}), "required following item"),
    (GOOGLE, google(turn({"text": ""})), "empty text"),
    (GOOGLE, google(turn()), "must not be empty"),
    (GOOGLE, google(turn({})), "oneof"),
    (GOOGLE, google(turn(function())), "immediately after"),
    (GOOGLE, google(turn(function(), function()), results("bash")), "number of function response parts"),
    (GOOGLE, google(turn(function()), results("ls")), "same names"),
    (GOOGLE, google(results("bash")), "same names"),
    (GOOGLE, google(turn(function("1x")), results("1x")), "pattern"),
]


@pytest.mark.parametrize(("api", "body"), GOOD, ids=range(len(GOOD)))
def test_what_services_take(api, body):
    assert violation(api, body, {}) is None


@pytest.mark.parametrize(("api", "body", "words"), BAD, ids=range(len(BAD)))
def test_what_services_refuse(api, body, words):
    assert words in violation(api, body, {})


def test_rules_that_have_to_be_named():
    for api, body, rule in [
        (COMPLETIONS, chat({"role": "developer", "content": "x"}), "no-developer-role"),
        (COMPLETIONS, chat(calling(chat_call()), said()), "chat-thought-signatures"),
        (GOOGLE, google(turn(function()), results("bash")), "google-thought-signatures"),
        (RESPONSES, responses(REASONING, WORDS), "not-stored"),
    ]:
        assert violation(api, body, {}) is None
        assert violation(api, body, {}, [rule])
    signed = chat_call() | {"extra_content": {"google": {"thought_signature": "x"}}}
    assert violation(COMPLETIONS, chat(calling(signed, chat_call(call_id="b")), said(), said("b")), {}, ["chat-thought-signatures"]) is None
    # Before the user's last words nothing is demanded.
    before = google(turn(function()), results("bash"), turn({"text": "x"}), {"role": "user", "parts": [{"text": "and"}]})
    assert violation(GOOGLE, before, {}, ["google-thought-signatures"]) is None


def test_thinking_that_is_bound():
    first = anthropic("go") | {"system": "s", "tools": []}
    made = signature(first, 1)
    thought = {"type": "thinking", "thinking": "t", "signature": made}

    def body(*messages, **fields):
        return copy.deepcopy(anthropic(*messages) | {"system": "s", "tools": []} | fields)

    def broken(checked, headers=None):
        return violation(ANTHROPIC, checked, headers or {}, ["thinking-bound"])

    good = body("go", [thought, CALL], [RESULT | {"cache_control": {}}])
    assert broken(good) is None
    second = signature(good, 2)
    later = {"type": "thinking", "thinking": "t", "signature": second}
    assert broken(body("go", [thought, CALL], [RESULT], [later, {"type": "text", "text": "x"}], "and")) is None
    # The thinking before it may be gone, but not another in its place.
    assert broken(body("go", [CALL], [RESULT], [later, {"type": "text", "text": "x"}], "and")) is None
    other = {"type": "thinking", "thinking": "t", "signature": signature(first, 3)}
    assert "different conversation" in broken(body("go", [other, CALL], [RESULT], [later, {"type": "text", "text": "x"}], "and"))
    assert "different conversation" in broken(body("gone", [thought, CALL], [RESULT]))
    assert "different conversation" in broken(body("go", [thought, CALL], [RESULT], system="t"))
    assert "Invalid `signature`" in broken(body("go", [SIGNED, CALL], [RESULT]))
    binding = {"type": "adaptive", "block_binding": {"prefix_mismatch_behavior": "drop_block"}}
    dropping = body("gone", [thought, CALL], [RESULT], thinking=binding)
    assert broken(dropping, {"anthropic-beta": "x,thinking-binding-controls-2026-08-01"}) is None
    assert "not permitted" in broken(dropping)


def test_the_list_of_cases_is_complete():
    found = {str(path.parent.relative_to(provider_cases.FOLDER)) for path in provider_cases.FOLDER.glob("*/*/case.json")}
    assert found == set(provider_cases.all_ids())
    for entry in provider_cases.MANIFEST["cases"]:
        case = provider_cases.load(entry["id"])
        assert (case["why"], case["kind"]) == (entry["why"], entry["kind"])
        assert all((provider_cases.FOLDER / entry["id"] / answer["file"]).is_file() for answer in case["answers"])
