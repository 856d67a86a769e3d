"""settings.json: the user's, which count from the next use on, and a project's, which count where the folder is trusted."""

import json

import pytest

from support.model_script import ToolCall

pytestmark = pytest.mark.any_server


def told(daemon, model, command):
    """What a command prints in a run."""
    model.script([ToolCall("bash", {"command": command})], "done")
    assert daemon.run("go").text() == "done"
    return model.requests[-1].tool_results[0][0]


def project_settings(daemon, content):
    path = daemon.cwd / ".pi/settings.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def trusting(new_daemon):
    daemon = new_daemon()
    daemon.config["trustedFolders"] = [str(daemon.cwd)]
    return daemon.start()


def test_a_shell_and_what_it_runs_first(daemon, model):
    daemon.write_agent_file("settings.json", {"shellPath": "/bin/sh", "shellCommandPrefix": "greeting=hello"})
    assert told(daemon, model, "echo $greeting from $0") == "hello from /bin/sh\n"


def test_a_change_counts_at_once(daemon, model):
    for word in ("one", "two"):
        daemon.write_agent_file("settings.json", {"shellCommandPrefix": f"word={word}"})
        assert told(daemon, model, "echo [$word]") == f"[{word}]\n"
        daemon.write_agent_file("settings.json", {})
        assert told(daemon, model, "echo [$word]") == "[]\n"


def test_broken_settings_count_as_none_and_are_reported(daemon, model):
    daemon.write_agent_file("settings.json", '{"shellCommandPrefix": ')
    assert told(daemon, model, "echo hi") == "hi\n"
    daemon.wait_log("settings.json")


def test_a_project_that_is_not_trusted_has_no_say(daemon, model):
    project_settings(daemon, {"shellCommandPrefix": "word=theirs"})
    assert told(daemon, model, "echo ${word:-mine}") == "mine\n"


def test_the_settings_of_a_trusted_project_beat_the_users(new_daemon, model):
    daemon = trusting(new_daemon)
    daemon.write_agent_file("settings.json", {"shellPath": "/bin/sh", "shellCommandPrefix": "word=mine"})
    assert told(daemon, model, "echo $word $0") == "mine /bin/sh\n"
    project_settings(daemon, {"shellCommandPrefix": "word=theirs"})
    assert told(daemon, model, "echo $word $0") == "theirs /bin/sh\n"
    project_settings(daemon, "{broken")
    assert told(daemon, model, "echo $word $0") == "mine /bin/sh\n"
    daemon.wait_log(r"\.pi/settings\.json")


def test_a_trusted_project_names_its_model(new_daemon, model):
    daemon = new_daemon()
    daemon.config["trustedFolders"] = [str(daemon.cwd)]
    del daemon.config["defaultModel"]
    daemon.write_agent_file("settings.json", {"defaultProvider": "scripted", "defaultModel": "one"})
    daemon.start()
    project_settings(daemon, {"defaultProvider": "scripted-responses", "defaultModel": "three"})
    model.script("ok")
    assert daemon.run("x").text() == "ok"
    assert model.requests[0].model == "three"


def test_tools_for_those_who_name_none(daemon, model):
    daemon.write_agent_file("settings.json", {"defaultTools": ["read", "grep"]})
    model.script("ok")
    daemon.run("x").text()
    assert sorted(model.requests[-1].tool_names) == ["grep", "read"]
    daemon.write_agent_file("settings.json", {"defaultTools": ["read", "fly"]})
    model.script("ok")
    daemon.run("x").text()
    assert sorted(model.requests[-1].tool_names) == ["bash", "edit", "read", "write"]
    daemon.wait_log('defaultTools .* "fly"')


def test_skills_and_templates_in_places_of_ones_own(new_daemon, model):
    daemon = trusting(new_daemon)
    for path, content in {
        daemon.agent_dir / "more/cook/SKILL.md": "---\nname: cook\ndescription: Cooks.\n---\nBoil water.\n",
        daemon.cwd / ".pi/own/greet.md": "Greet $1.",
    }.items():
        path.parent.mkdir(parents=True)
        path.write_text(content)
    daemon.write_agent_file("settings.json", {"skills": ["more"]})
    project_settings(daemon, {"prompts": ["own"]})
    model.script("ok", "ok", "ok")
    daemon.run("/greet Ada").text()
    assert "<name>cook</name>" in model.requests[0].system and model.requests[0].prompts == ["Greet Ada."]
    daemon.run("/skill:cook").text()
    assert "Boil water." in model.requests[1].prompts[0]
    project_settings(daemon, {"enableSkillCommands": False})
    daemon.run("/skill:cook").text()
    assert model.requests[2].prompts == ["/skill:cook"]
