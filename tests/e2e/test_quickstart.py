"""scripts/quickstart asks the daemon for the model, and always ends with an answer."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from support.daemon import API_KEY, BINARY, providers
from support.model_script import Failure

pytestmark = pytest.mark.any_server

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def quickstart(tmp_path, model):
    """Runs the script as a user with this home folder and these variables."""

    def run(*arguments, agent=None, **variables):
        home = tmp_path / "home"
        folder = home / ".pi/agent"
        folder.mkdir(parents=True)
        for name, content in (agent or {}).items():
            (folder / name).write_text(json.dumps(content))
        environment = {"PATH": os.environ["PATH"], "HOME": str(home), "NATS_PI_BRIDGE": str(BINARY), **variables}
        done = subprocess.run(
            [REPOSITORY / "scripts/quickstart", *arguments],
            env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=50,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Done; the daemon is stopped again." in done.stdout
        assert API_KEY not in done.stdout + done.stderr
        return done.stdout

    return run


def agent(model):
    return {"models.json": providers(model.url), "settings.json": {"defaultProvider": "scripted", "defaultModel": "one",
            "retry": {"maxRetries": 0}}}


def test_without_a_key_the_built_in_model_answers(quickstart):
    said = quickstart()
    assert "There is no model (no provider has a key)." in said
    assert "an empty one ends." in said and "Remember the number 417" in said


def test_a_key_of_a_provider_that_is_not_spoken_is_no_model(quickstart):
    assert "There is no model" in quickstart(MISTRAL_API_KEY="x")


def test_a_model_that_can_be_used_answers(quickstart, model):
    model.script("Small notes"), model.script("417, noted"), model.script("It was 417")
    said = quickstart(agent=agent(model))
    assert "Using the model scripted/one" in said and "key in models.json" in said
    assert "Small notes" in said and "It was 417" in said and "offline/demo" not in said


def test_a_model_that_refuses_is_replaced_by_the_built_in_one(quickstart, model):
    model.script(Failure(401, "invalid x-api-key"))
    said = quickstart(agent=agent(model))
    assert "This model cannot be used." in said and "invalid x-api-key" in said
    assert "Remember the number 417" in said


def test_offline_means_offline(quickstart, model):
    said = quickstart("--offline", agent=agent(model))
    assert model.requests == [] and "offline/demo" in said
