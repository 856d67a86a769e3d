"""What callers are told when a provider fails: our words and our codes, whatever the provider's text has in it."""

import re

import pytest

from support import provider_rules
from support.agents import prompt
from support.model_script import Failure, Raw
from support.provider_apis import event
from support.strict_model import spec_of

pytestmark = pytest.mark.any_server

APIS = provider_rules.APIS


def failing(status, words="no", kind="some_error"):
    return Failure(status, {"type": "error", "error": {"type": kind, "message": words, "code": kind}})


@pytest.fixture
def worker(daemon, model):
    """The name of a session that is also an agent, and that does not ask again."""
    daemon.write_agent_file("settings.json", {"retry": {"enabled": False}})
    model.script("hello")
    daemon.session("worker", "hi").text()
    return "worker"


def test_one_code_for_every_status_of_a_provider(daemon, model, worker):
    found = {}
    for status in (400, 401, 402, 403, 404, 422, 429, 500, 502, 503, 529):
        model.script(failing(status))
        code, document = prompt(daemon, worker, "go").failure()
        found[status] = (code, document["error"])
        assert document["message"], document
    codes = set(found.values())
    assert len(codes) == 1, found
    ((status, word),) = codes
    assert status == 500 and re.fullmatch(r"[a-z][a-z_]+", word)


# Texts that look like a code of ours, or like one of theirs.
WORDS = ["529", "not_found", "queue_full: try later", "401: error", '{"error":"429"}', "error: 404: not_found", "timeout", ""]


@pytest.mark.parametrize("api", APIS)
def test_nothing_in_a_providers_text_becomes_our_code(daemon, model, api):
    daemon.write_agent_file("settings.json", {"retry": {"enabled": False}})
    model.script("hello")
    daemon.session("worker", "hi", model=spec_of(api)).text()
    found = set()
    for words in WORDS:
        model.script(failing(400, words, words or "x"))
        code, document = prompt(daemon, "worker", "go").failure()
        found.add((code, document["error"]))
    assert len(found) == 1, found
    assert re.fullmatch(r"[a-z][a-z_]+", next(iter(found))[1])


def test_an_error_in_the_stream_has_the_same_code(daemon, model, worker):
    model.script(failing(500))
    expected = prompt(daemon, worker, "go").failure()[1]["error"]
    model.script([Raw(event({"type": "error", "error": {"type": "429", "message": "404"}}, "error"))])
    code, document = prompt(daemon, worker, "go").failure()
    assert (code, document["error"]) == (500, expected)


@pytest.mark.parametrize("status", [401, 429, 529])
def test_the_plain_wire_has_our_number_as_well(daemon, model, worker, status):
    model.script(failing(status, "their words"))
    failed = daemon.prompt(worker, "go").failure()
    assert failed.code == 500 and "their words" in failed.text
    model.script(failing(status, "their words"))
    failed = daemon.run("go").failure()
    assert failed.code == 500 and "their words" in failed.text
