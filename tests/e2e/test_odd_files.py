"""Files of PI with something odd in them: it costs itself and is named, and everything else holds."""

import json

import pytest

from support.daemon import API_KEY, providers
from support.model_script import ToolCall

pytestmark = pytest.mark.any_server


def told(daemon, model, command):
    """What a command prints in a run."""
    model.script([ToolCall("bash", {"command": command})], "done")
    assert daemon.run("go").text() == "done"
    return model.requests[-1].tool_results[0][0]


@pytest.mark.parametrize("odd", ["sk-abc", None, 5, [], {"key": "sk-abc"}, {"type": "api_key", "key": ["sk-abc"]}], ids=str)
def test_an_odd_entry_of_auth_json(new_daemon, model, odd):
    daemon = new_daemon()
    models = providers(model.url)
    del models["providers"]["scripted"]["apiKey"]
    models["providers"]["openai"] = {"baseUrl": f"{model.url}/v1"}
    daemon.write_agent_file("models.json", models)
    daemon.write_agent_file("auth.json", {"openai": odd, "scripted": {"type": "api_key", "key": API_KEY}})
    daemon.environment["OPENAI_API_KEY"] = "not-asked-for"
    daemon.start()
    model.script("fine")
    assert daemon.run("x").text() == "fine"
    assert model.requests[0].key == API_KEY
    refused = daemon.refusal({"sessionMode": "run", "body": "x", "cwd": str(daemon.cwd), "model": "openai/gpt-5.5"})
    message = refused.document["message"]
    assert "auth.json" in message and '"openai"' in message and "sk-abc" not in message
    daemon.wait_log(r'auth\.json: the entry "openai"')
    assert "sk-abc" not in daemon.log_text()
    assert sum("auth.json" in line for line in daemon.log) == 1
    checked = daemon.run_to_end("--check")
    assert 'the entry "openai"' in checked.stderr and "sk-abc" not in checked.stdout + checked.stderr


def test_a_broken_auth_json_is_named(new_daemon):
    daemon = new_daemon()
    daemon.write_agent_file("auth.json", '{"openai":\n  {"type": "api_key", "key": "sk-abc"')
    daemon.start()
    refused = daemon.refusal({"sessionMode": "run", "body": "x", "cwd": str(daemon.cwd)})
    message = refused.document["message"]
    assert "/auth.json: " in message and "line 2 column" in message and "sk-abc" not in message
    assert "auth.json: " in daemon.run_to_end("--check").stderr


@pytest.mark.parametrize(
    "settings",
    [
        {"compaction": None},
        {"compaction": {"reserveTokens": 16384.0, "keepRecentTokens": "many"}},
        {"retry": 3},
        {"steeringMode": "sometimes", "images": [], "thinkingBudgets": {"low": None}},
        {"defaultTools": "read"},
    ],
    ids=json.dumps,
)
def test_an_odd_value_of_settings_json(daemon, model, settings):
    daemon.write_agent_file("settings.json", {**settings, "shellCommandPrefix": "export PFX=yes"})
    assert told(daemon, model, "echo [$PFX]") == "[yes]\n"
    daemon.wait_log(rf'settings\.json: "{next(iter(settings))}.*is left out')
    assert "is left out" in daemon.run_to_end("--check").stderr


def test_an_odd_provider_of_models_json(daemon, model):
    models = providers(model.url)
    models["providers"]["odd"] = {"baseUrl": 5, "models": [{"id": "m"}]}
    models["providers"]["scripted"]["models"].append({"id": "two", "input": "text"})
    models["providers"]["scripted"]["models"][0]["maxTokens"] = 8192
    daemon.write_agent_file("models.json", models)
    model.script("fine")
    assert daemon.run("x").text() == "fine"
    for spec, named in {"odd/m": 'provider "odd"', "scripted/two": 'model "two"'}.items():
        refused = daemon.refusal({"sessionMode": "run", "body": "x", "cwd": str(daemon.cwd), "model": spec})
        assert "models.json" in refused.document["message"] and named in refused.document["message"]


class TestTrustInAllProjects:
    """defaultProjectTrust of the user's own settings."""

    @staticmethod
    def project(daemon):
        skill = daemon.cwd / ".pi/skills/cook/SKILL.md"
        skill.parent.mkdir(parents=True)
        skill.write_text("---\nname: cook\ndescription: Cooks.\n---\nBoil water.\n")
        (daemon.cwd / ".pi/SYSTEM.md").write_text("You are the project's.")
        settings = {"shellCommandPrefix": "word=theirs", "defaultProjectTrust": "always"}
        (daemon.cwd / ".pi/settings.json").write_text(json.dumps(settings))

    @staticmethod
    def is_used(daemon, model, ask):
        before = len(model.requests)
        model.script([ToolCall("bash", {"command": "echo [$word]"})], "done")
        assert ask().text() == "done"
        request = model.requests[before + 1]
        found = {"You are the project's." in request.system, "<name>cook</name>" in request.system,
                 request.tool_results[-1][0] == "[theirs]\n"}
        assert len(found) == 1, "all or nothing"
        return found.pop()

    def test_always(self, new_daemon, model):
        daemon = new_daemon()
        self.project(daemon)
        daemon.write_agent_file("settings.json", {"defaultProjectTrust": "always"})
        daemon.start()
        assert self.is_used(daemon, model, lambda: daemon.run("x"))
        assert self.is_used(daemon, model, lambda: daemon.session("s", "x"))
        daemon.signal()
        assert daemon.wait_exit() == 0
        daemon.start()
        assert self.is_used(daemon, model, lambda: daemon.prompt("s", "x"))

    @pytest.mark.parametrize("value", ["ask", "never", None, True])
    def test_anything_else(self, new_daemon, model, value):
        daemon = new_daemon()
        self.project(daemon)
        daemon.write_agent_file("settings.json", {"defaultProjectTrust": value})
        daemon.start()
        assert not self.is_used(daemon, model, lambda: daemon.run("x"))
        assert not self.is_used(daemon, model, lambda: daemon.session("s", "x"))
