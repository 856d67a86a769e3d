"""The intake's refusals, and what callers see when a model fails."""

import time

import pytest

from support.agents import prompt
from support.bridge import Bridge
from support.daemon import API_KEY, MODELS
from support.model_script import Cut, Failure, Gate, Raw, Stop, Text, ToolCall, Unterminated

OVERLOADED = Failure(529, {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}})


def request(daemon, mode, **fields):
    """A complete request of a mode, with changes; a field that is None is left out."""
    complete = {
        "run": {"body": "x", "cwd": str(daemon.cwd)},
        "session": {"body": "x", "cwd": str(daemon.cwd), "sessionId": "s"},
        "stop": {"sessionId": "s"},
        "list": {},
    }[mode]
    fields = {"sessionMode": mode, **complete, **fields}
    return {name: value for name, value in fields.items() if value is not None}


@pytest.mark.parametrize("payload", ["", "no json", "{", '{"sessionMode":"list"} x', "{'sessionMode':'list'}"])
def test_invalid_json(daemon, payload):
    refused = daemon.refusal(payload)
    assert (refused.error, refused.code, refused.terminated) == ("invalid_json", 400, True)
    assert refused.document["message"]


@pytest.mark.parametrize(
    "payload", ["{}", "[]", "null", "7", '"list"', {"sessionMode": None}, {"sessionMode": 3}, {"body": "x"}]
)
def test_invalid_request(daemon, payload):
    refused = daemon.refusal(payload)
    assert refused.document == {"error": "invalid_request", "message": "sessionMode required"}
    assert (refused.code, refused.terminated) == (400, True)


@pytest.mark.parametrize("mode", ["explode", "RUN", "run "])
def test_invalid_session_mode(daemon, mode):
    refused = daemon.refusal({"sessionMode": mode})
    assert refused.document == {"error": "invalid_sessionMode", "sessionMode": mode}
    assert (refused.code, refused.terminated) == (400, True)


@pytest.mark.parametrize(
    ("mode", "field"),
    [
        ("run", "body"),
        ("run", "cwd"),
        ("session", "body"),
        ("session", "cwd"),
        ("session", "sessionId"),
        ("stop", "sessionId"),
    ],
)
@pytest.mark.parametrize("value", [None, "", 5], ids=["absent", "empty", "number"])
def test_missing_fields_names_all_that_the_mode_needs(daemon, mode, field, value):
    required = {"run": ["body", "cwd"], "session": ["body", "cwd", "sessionId"], "stop": ["sessionId"]}[mode]
    refused = daemon.refusal(request(daemon, mode, **{field: value}))
    assert refused.document == {"error": "missing_fields", "required": required}
    assert refused.code == 400
    assert refused.terminated == (mode != "stop")


@pytest.mark.parametrize(
    "session_id",
    ["..", ".", "a.b", "*", ">", "a b", "a\tb", "a\nb", "a\x00b", "ä", "日本", "a/b", "$SRV", "x" * 65, "x" * 300],
)
@pytest.mark.parametrize("mode", ["session", "stop"])
def test_invalid_session_id(daemon, mode, session_id):
    refused = daemon.refusal(request(daemon, mode, sessionId=session_id))
    assert (refused.error, refused.code) == ("invalid_sessionId", 400)
    # It is repeated, though not at any length.
    assert refused.document["sessionId"] == session_id[:200] and refused.document["message"]


@pytest.mark.parametrize("session_id", ["a", "x" * 64, "A-Z_az-09", "-", "_", "0"])
def test_valid_session_ids(daemon, model, session_id):
    model.script("ok", "again")
    assert daemon.session(session_id, "x").text() == "ok"
    assert daemon.prompt(session_id, "y").text() == "again"


def test_session_exists(daemon, model):
    gate = Gate()
    model.script([gate, "ok"])
    stream = daemon.session("s", "x")
    gate.wait_reached()
    refused = daemon.refusal(request(daemon, "session"))
    assert (refused.error, refused.code, refused.terminated) == ("session_exists", 409, True)
    assert refused.document["sessionId"] == "s" and refused.document["subject"] == daemon.subject("s")
    assert refused.document["message"]
    gate.open()
    assert stream.text() == "ok"


@pytest.mark.parametrize("mode", ["run", "session"])
@pytest.mark.parametrize(
    "wrong",
    [
        {"cwd": "/no/such/directory"},
        {"cwd": "/etc/passwd"},
        {"model": "scripted/unknown"},
        {"model": "nobody/at-all"},
        {"model": "not a model"},
    ],
    ids=str,
)
def test_session_create_failed(daemon, model, mode, wrong):
    refused = daemon.refusal(request(daemon, mode, **wrong))
    assert (refused.error, refused.code, refused.terminated) == ("session_create_failed", 400, True)
    assert refused.document["message"]
    assert daemon.list() == {"sessions": [], "runs": []}
    assert model.requests == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"thinkingLevel": "deep"},
        {"thinkingLevel": 3},
        {"maxLifetime": -1},
        {"maxLifetime": "60"},
        {"maxLifetime": True},
        {"model": 7},
        {"from": 7},
        {"from": {"name": "x"}},
    ],
    ids=str,
)
def test_optional_fields_of_the_wrong_kind(daemon, model, wrong):
    refused = daemon.refusal(request(daemon, "run", **wrong))
    assert (refused.error, refused.code, refused.terminated) == ("invalid_request", 400, True)
    (field,) = wrong
    assert field in refused.document["message"]
    assert model.requests == []


def test_a_model_without_credentials_says_what_to_do(daemon, model):
    refused = daemon.refusal(request(daemon, "run", model="anthropic/claude-sonnet-4-5"))
    assert refused.error == "session_create_failed"
    assert "anthropic" in refused.document["message"] and "ANTHROPIC_API_KEY" in refused.document["message"]


def test_not_found(daemon):
    refused = daemon.refusal(request(daemon, "stop", sessionId="nobody"))
    assert refused.document == {"error": "not_found", "sessionId": "nobody"}
    assert (refused.code, refused.terminated) == (404, False)


def test_the_order_of_the_checks(daemon, model):
    """A request that is wrong in several ways is refused for the first of them."""
    model.script("ok")
    daemon.session("s", "x").text()
    steps = [
        ({"sessionMode": "none"}, "invalid_sessionMode"),
        ({"sessionMode": "session", "body": None}, "missing_fields"),
        ({"sessionId": "a.b"}, "invalid_sessionId"),
        ({}, "session_exists"),
        ({"sessionId": "t"}, "session_create_failed"),
        ({"sessionId": "t", "cwd": str(daemon.cwd)}, "session_create_failed"),
        ({"sessionId": "t", "cwd": str(daemon.cwd), "model": "scripted/one"}, "invalid_request"),
    ]
    wrong = {"sessionMode": "session", "cwd": "/no/such", "model": "none/none", "thinkingLevel": "deep"}
    for change, error in steps:
        assert daemon.refusal(request(daemon, "session", **{**wrong, **change})).error == error


# Models that fail.


def test_overloaded_twice_then_fine(daemon, model):
    model.script(OVERLOADED, OVERLOADED, "at last")
    assert daemon.run("x").text() == "at last"
    assert len(model.requests) == 3
    # What failed is not part of what is sent again.
    assert model.requests[0].conversation == model.requests[2].conversation == [("user", "x")]


@pytest.mark.parametrize("status", [429, 500, 502, 503, 529])
def test_transient_errors_are_tried_again(daemon, model, status):
    model.script(Failure(status, "try later"), "fine")
    assert daemon.run("x").text() == "fine"
    assert len(model.requests) == 2


def test_retries_end(daemon, model):
    model.answer(lambda _request: OVERLOADED)
    failed = daemon.run("x").failure()
    assert failed.text.startswith("error: ") and "Overloaded" in failed.text
    assert len(model.requests) == 4, "three retries"


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        (Failure(401, {"type": "error", "error": {"type": "authentication_error", "message": "invalid key"}}), "invalid key"),
        (Failure(400, {"type": "error", "error": {"message": "bad field"}}), "bad field"),
        (Failure(404, "no such model"), "no such model"),
        (Failure(429, {"error": {"code": "insufficient_quota", "message": "pay first"}}), "pay first"),
    ],
    ids=["401", "400", "404", "quota"],
)
@pytest.mark.parametrize("spec", MODELS.values(), ids=MODELS)
def test_final_errors_are_told_at_once(daemon, model, spec, failure, words):
    model.script(failure)
    stream = daemon.run("x", model=spec)
    failed = stream.failure()
    assert failed.text.startswith("error: ") and words in failed.text
    assert failed.code >= 400 and failed.description
    assert API_KEY not in failed.text and API_KEY not in failed.description
    assert len(model.requests) == 1
    daemon.assert_nothing_follows(stream)


def test_retry_after_is_honoured(daemon, model):
    model.script(Failure(429, "slow down", {"Retry-After": "1"}), "fine")
    begun = time.monotonic()
    assert daemon.run("x").text() == "fine"
    assert time.monotonic() - begun >= 1.0


@pytest.mark.parametrize(
    "ending",
    [Cut(), Raw("event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\"}}\n\n")],
    ids=["reset", "error event"],
)
def test_a_stream_that_breaks_is_tried_again(daemon, model, ending):
    gate = Gate()
    model.script(["lost ", gate, ending], "whole")
    stream = daemon.run("x")
    # What was streamed before the break cannot be taken back.
    stream.until("lost ")
    gate.open()
    assert stream.text() == "lost whole"
    assert model.requests[1].conversation == [("user", "x")]


@pytest.mark.parametrize("spec", MODELS.values(), ids=MODELS)
def test_a_stream_without_its_end_is_tried_again(daemon, model, spec):
    model.script(["lost ", Unterminated()], "whole")
    assert daemon.run("x", model=spec).text() == "lost whole"


def test_rubbish_in_the_stream(daemon, model):
    """Lines that are no events and events of unknown kinds are passed over."""
    rubbish = Raw(": comment\n\nevent: ping\ndata: {\"type\": \"ping\"}\n\nevent: future\ndata: {\"type\":\"future\"}\n\nnonsense\n\n")
    model.script(["a", rubbish, "b"])
    assert daemon.run("x").text() == "ab"


def test_json_that_does_not_parse_ends_the_stream_with_an_error(daemon, model):
    broken = Raw("event: content_block_delta\ndata: {\"type\": \"content_block_delta\", \n\n")
    model.answer(lambda _request: ["a", broken, Unterminated()])
    assert daemon.run("x").failure().text.startswith("error: ")


def test_a_refusal_of_the_model_is_an_error(daemon, model):
    model.script(["I ", Stop("refusal")])
    stream = daemon.run("x")
    assert stream.failure().text.startswith("error: ")
    assert stream.so_far() == "I "


def test_nobody_listens_at_the_models_address(daemon, model):
    model.close()
    failed = daemon.run("x").failure()
    assert failed.text.startswith("error: ")


def test_an_error_after_a_tool_keeps_the_tools_work(daemon, model):
    model.script([ToolCall("write", {"path": "made.txt", "content": "kept"})], Failure(400, "no more"), "go on")
    daemon.session("s", "x").failure()
    assert (daemon.cwd / "made.txt").read_text() == "kept"
    assert daemon.prompt("s", "y").text() == "go on"
    assert len(model.requests[2].tool_results) == 1


def test_text_that_looks_like_an_error_has_no_headers(daemon, model):
    """A program can tell the daemon's errors from a model that talks about errors."""
    model.script("error: not really")
    assert daemon.run("x").text() == "error: not really"


# One failure has one code, whichever wire it is told on, and a provider's words never become it.

PROVIDERS_WORDS = {
    "401": Failure(401, {"error": "401"}),
    "429": Failure(429, {"error": {"message": "insufficient_quota: pay", "code": "429"}}),
    "529": Failure(529, {"type": "error", "error": {"type": "529", "message": "529"}}),
    "a code of ours": Failure(400, "queue_full: try another"),
    "a word": Failure(400, "not_found"),
    "in the stream": Raw("event: error\ndata: {\"type\":\"error\",\"error\":\"busy: x\"}\n\n"),
}


@pytest.fixture
def worker(daemon, model):
    daemon.write_agent_file("settings.json", {"retry": {"enabled": False}})
    model.script("hello")
    daemon.session("s", "hi").text()
    return daemon


def on_every_wire(daemon, body):
    """Prompts three times; the code and the number that each wire tells."""
    plain = daemon.prompt("s", body).failure()
    status, document = prompt(daemon, "s", body).ack().failure()
    with Bridge(daemon.session_socket("s")) as client:
        client.exchange("prompt", id=1, message=body, stream=True)
        _, end = client.stream(1)
    return [(plain.word, plain.code), (document["error"], status), (end["code"], end["status"])]


@pytest.mark.parametrize("failure", PROVIDERS_WORDS.values(), ids=PROVIDERS_WORDS)
def test_a_failing_model_is_a_model_error_on_every_wire(worker, model, failure):
    model.script([failure], [failure], [failure])
    assert on_every_wire(worker, "x") == [("model_error", 500)] * 3


def test_an_empty_answer_has_its_own_code_on_every_wire(worker, model):
    model.script(*[[Text("")]] * 6)
    assert on_every_wire(worker, "x") == [("empty_answer", 500)] * 3


def test_an_aborted_prompt_has_its_own_code_on_every_wire(worker, model):
    found = []
    for send in (lambda: worker.prompt("s", "x"), lambda: prompt(worker, "s", "x").ack()):
        gate = Gate()
        model.script([gate])
        answer = send()
        gate.wait_reached()
        worker.bus.ask(f"agents.pi-exec.{worker.owner}.s.abort")
        failed = answer.failure()
        found.append((failed[1]["error"], failed[0]) if isinstance(failed, tuple) else (failed.word, failed.code))
    assert found == [("aborted", 500)] * 2


def test_refusals_have_codes_on_every_wire(worker, model):
    assert worker.prompt("s", " ").failure().word == "bad_request"
    assert prompt(worker, "s", " ").failure() == (400, {"error": "empty_prompt", "message": "empty_prompt: the prompt is empty"})
    gate = Gate()
    model.script([gate, "ok"])
    stream = worker.prompt("s", "x")
    gate.wait_reached()
    with Bridge(worker.session_socket("s")) as client:
        refused = client.exchange("prompt", message="y", deliverAs="now")
        assert (refused["success"], refused["code"]) == (False, "busy")
        assert refused["error"].startswith("busy: ")
    gate.open()
    assert stream.text() == "ok"
    worker.stop_session("s")
