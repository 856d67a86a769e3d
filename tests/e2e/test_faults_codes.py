"""What callers are told when a provider fails: our words and our codes, whatever the provider's text has in it."""

import json
import re

import pytest

from support import provider_rules
from support.agents import prompt
from support.daemon import API_KEY
from support.model_script import Failure, Raw
from support.provider_apis import event
from support.strict_model import spec_of

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


# Entries of auth.json that are none.
ODD_ENTRIES = ["sk-abc", 5, None, [], {}, {"type": "api_key"}, {"type": "api_key", "key": 7}, {"type": "surprise", "key": "k"}, {"type": "oauth", "access": 1}, True]


@pytest.mark.parametrize("entry", ODD_ENTRIES, ids=[json.dumps(entry) for entry in ODD_ENTRIES])
def test_an_odd_entry_of_auth_json_costs_that_entry_alone(new_daemon, model, entry):
    daemon = new_daemon()
    models = json.loads((daemon.agent_dir / "models.json").read_text())
    for provider in models["providers"].values():
        del provider["apiKey"]
    models["providers"]["openai"] = {"baseUrl": model.url}
    daemon.write_agent_file("models.json", models)
    daemon.write_agent_file("auth.json", {"openai": entry, "scripted": {"type": "api_key", "key": API_KEY}})
    daemon.start()
    model.script("fine")
    assert daemon.run("x").text() == "fine"
    assert model.requests[-1].key == API_KEY
    refused = daemon.refusal({"sessionMode": "run", "body": "x", "cwd": str(daemon.cwd), "model": "openai/gpt-5.1"}).document["message"]
    assert "openai" in refused and "sk-abc" not in refused
    # It is not copied into the log either.
    assert "sk-abc" not in daemon.log_text()


@pytest.mark.parametrize("content", ['{"scripted": ', "[]", "5", ""], ids=["cut", "list", "number", "nothing"])
def test_a_broken_auth_json_is_named(new_daemon, model, content):
    daemon = new_daemon()
    models = json.loads((daemon.agent_dir / "models.json").read_text())
    del models["providers"]["scripted"]["apiKey"]
    daemon.write_agent_file("models.json", models)
    daemon.write_agent_file("auth.json", content)
    daemon.start()
    refused = daemon.refusal({"sessionMode": "run", "body": "x", "cwd": str(daemon.cwd)}).document["message"]
    if content:
        assert "auth.json" in refused + daemon.log_text()
