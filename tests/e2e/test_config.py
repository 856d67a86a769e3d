"""Flags, environment, configuration file, models and their keys. What is about NATS is in test_connect.py."""

import os
import pwd
import re
import tomllib
from pathlib import Path

import pytest

from support.daemon import API_KEY, MODELS
from support.model_script import Failure, ToolCall

pytestmark = pytest.mark.any_server

FLAGS = """--server --context --creds --nkey --user --password --token --tls-ca --tls-cert --tls-key --tls-first
--inbox-prefix --owner --config --agent-dir --model --thinking --max-lifetime --max-sessions --max-queue --grace
--bash-timeout --min-sender-trust --trusted-senders --log --check --version --help""".split()


def test_version_is_the_crates(new_daemon):
    done = new_daemon().run_to_end("--version")
    manifest = tomllib.loads((Path(__file__).parents[2] / "Cargo.toml").read_text())
    assert done.returncode == 0
    assert done.stdout.split() == ["nats-pi-bridge", manifest["package"]["version"]]


def test_help_names_every_flag(new_daemon):
    done = new_daemon().run_to_end("--help")
    assert done.returncode == 0
    assert [flag for flag in FLAGS if not re.search(rf"{flag}\b", done.stdout)] == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["--nonsense"],
        ["word"],
        ["--server"],
        ["--max-queue", "many"],
        ["--max-queue", "-1"],
        ["--grace", "soon"],
        ["--max-lifetime", "-5"],
        ["--thinking", "deep"],
        ["--heartbeat-interval", "0"],
        ["--min-sender-trust", "most"],
        ["--log", "shouting"],
        ["--check", "extra"],
    ],
    ids=" ".join,
)
def test_bad_flags_end_with_2(new_daemon, arguments):
    done = new_daemon().run_to_end(*arguments)
    assert done.returncode == 2
    # It names what is wrong.
    assert any(word.strip("-") in done.stderr for word in arguments)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"serverr": "x"}', ["serverr"]),
        ('{"maxQueue": "many"}', ["maxQueue"]),
        ('{"maxQueue": -1}', ["maxQueue"]),
        ('{"server": 5}', ["server"]),
        ('{"tlsFirst": "yes"}', ["tlsFirst"]),
        ('{"toolEnvironment": "PATH"}', ["toolEnvironment"]),
        ('{"defaultThinkingLevel": "deep"}', ["defaultThinkingLevel"]),
        ('{"minSenderTrust": "most"}', ["minSenderTrust"]),
        ('{"trustedSenders": ["UABC"]}', ["trustedSenders", "UABC"]),
        ('{"events": "all"}', ["events"]),
        ('{"grace": 1', []),
        ("[]", []),
    ],
)
def test_a_bad_configuration_ends_with_78(new_daemon, content, words):
    daemon = new_daemon()
    path = daemon.home / "other.json"
    path.write_text(content)
    done = daemon.run_to_end("--config", str(path))
    assert done.returncode == 78
    for word in [str(path), *words]:
        assert word in done.stderr


def test_an_explicit_configuration_file_must_be_there(new_daemon):
    done = new_daemon().run_to_end("--config", "/no/such/config.json")
    assert done.returncode == 78 and "/no/such/config.json" in done.stderr


def test_no_configuration_at_all(new_daemon):
    daemon = new_daemon()
    daemon.config = {}
    found = daemon.values()
    assert found["server"].removeprefix("nats://") == "127.0.0.1:4222"
    assert found["owner"] == "tester"
    assert found["defaultMaxLifetime"] == "1800"
    assert found["maxQueue"] == "32" and found["grace"] == "20"


def test_check_tells_where_a_value_is_from(new_daemon):
    daemon = new_daemon()
    daemon.config = {"server": "nats://file:1", "owner": "from-file", "grace": 3}
    daemon.environment["PI_EXEC_OWNER"] = "from-env"
    found = daemon.settings("--max-queue", "7")
    origins = {name: found[name][1] for name in ("server", "owner", "maxQueue", "grace", "maxSessions")}
    assert "config.json" in origins["server"] and "config.json" in origins["grace"]
    assert "PI_EXEC_OWNER" in origins["owner"]
    assert "--max-queue" in origins["maxQueue"]
    assert "default" in origins["maxSessions"]


def test_check_keeps_secrets(new_daemon):
    daemon = new_daemon()
    daemon.config = {"password": "hush-1", "user": "me"}
    done = daemon.run_to_end("--token", "hush-2", "--server", "nats://user:hush-3@localhost", "--check")
    assert done.returncode == 0
    assert "hush" not in done.stdout + done.stderr
    assert re.search(r"^password = set  ", done.stdout, re.M) and re.search(r"^token = set  ", done.stdout, re.M)


PRECEDENCE = [
    # setting, key in the file, environment, flag
    ("server", "server", "NATS_URL", "--server", ["f:1", "e:2", "g:3"]),
    ("owner", "owner", "PI_EXEC_OWNER", "--owner", ["file", "environment", "flag"]),
    ("defaultModel", "defaultModel", "PI_EXEC_DEFAULT_MODEL", "--model", ["a/f", "a/e", "a/g"]),
    ("defaultThinkingLevel", "defaultThinkingLevel", "PI_EXEC_DEFAULT_THINKING_LEVEL", "--thinking", ["low", "medium", "high"]),
    ("defaultMaxLifetime", "defaultMaxLifetime", "PI_EXEC_DEFAULT_MAX_LIFETIME", "--max-lifetime", [1, 2, 3]),
    ("agentDir", "agentDir", "PI_CODING_AGENT_DIR", "--agent-dir", ["/f", "/e", "/g"]),
]


@pytest.mark.parametrize(("name", "key", "variable", "flag", "given"), PRECEDENCE, ids=lambda value: value if isinstance(value, str) else "")
def test_flag_beats_environment_beats_file(new_daemon, name, key, variable, flag, given):
    daemon = new_daemon()
    in_file, in_environment, in_flag = given
    daemon.config = {key: in_file}
    assert daemon.values()[name] == str(in_file)
    daemon.environment[variable] = str(in_environment)
    assert daemon.values()[name] == str(in_environment)
    assert daemon.values(flag, str(in_flag))[name] == str(in_flag)
    # Empty is unset.
    daemon.environment[variable] = ""
    assert daemon.values()[name] == str(in_file)


@pytest.mark.parametrize(
    ("key", "flag", "in_file", "in_flag", "shown"),
    [
        ("inboxPrefix", "--inbox-prefix", "_A", "_B", "_B"),
        ("maxSessions", "--max-sessions", 5, "6", "6"),
        ("maxQueue", "--max-queue", 5, "6", "6"),
        ("grace", "--grace", 5, "6", "6"),
        ("bashTimeout", "--bash-timeout", 5, "6", "6"),
        ("log", "--log", "warn", "debug", "debug"),
        ("heartbeatInterval", "--heartbeat-interval", 5, "6", "6"),
        ("events", "--events", False, None, "true"),
        ("minSenderTrust", "--min-sender-trust", "any", "signed", "signed"),
        ("tlsFirst", "--tls-first", False, None, "true"),
        ("user", "--user", "a", "b", "b"),
        ("tlsCa", "--tls-ca", "/a", "/b", "/b"),
    ],
    ids=lambda value: value if isinstance(value, str) and value[0].isalpha() else "",
)
def test_settings_without_a_variable(new_daemon, key, flag, in_file, in_flag, shown):
    daemon = new_daemon()
    daemon.config = {key: in_file}
    value, origin = daemon.settings()[key]
    assert value.lower() == str(in_file).lower() and "config.json" in origin
    assert daemon.settings(flag, *([in_flag] if in_flag else []))[key] == (shown, flag)


@pytest.mark.parametrize(
    ("variable", "value"), [("PI_EXEC_DEFAULT_MAX_LIFETIME", "soon"), ("PI_EXEC_DEFAULT_THINKING_LEVEL", "deep")]
)
def test_a_bad_variable_is_named(new_daemon, variable, value):
    daemon = new_daemon()
    daemon.environment[variable] = value
    done = daemon.run_to_end("--check")
    assert done.returncode == 78 and variable in done.stderr


def test_the_configuration_file_is_optional(new_daemon):
    daemon = new_daemon()
    daemon.config = None
    assert daemon.values()["owner"] == "tester"


def test_a_lifetime_of_zero_is_a_value(new_daemon, model):
    daemon = new_daemon()
    daemon.config["defaultMaxLifetime"] = 900
    daemon.environment["PI_EXEC_DEFAULT_MAX_LIFETIME"] = "0"
    daemon.start()
    model.script("ok", "ok")
    daemon.session("s", "x").text()
    assert daemon.inspect("s")["remainingLifetime"] is None
    daemon.session("t", "x", maxLifetime=5).text()
    assert daemon.inspect("t")["maxLifetime"] == 5


@pytest.mark.parametrize(
    ("user", "owner"),
    [("Mario Rossi", "mario-rossi"), ("a.b>c*", "a-b-c"), ("--x_1--", "x_1"), ("äöü", "unknown")],
)
def test_the_owner_is_a_clean_name(new_daemon, user, owner):
    daemon = new_daemon()
    daemon.config = {}
    if user is None:
        del daemon.environment["USER"]
    else:
        daemon.environment["USER"] = user
    assert daemon.values()["owner"] == owner
    if user:
        assert daemon.values("--owner", user)["owner"] == owner


@pytest.mark.parametrize("user", ["", None])
def test_without_a_name_in_the_environment_the_owner_is_the_systems(new_daemon, user):
    daemon = new_daemon()
    daemon.config = {}
    daemon.environment["USER"] = user
    if user is None:
        del daemon.environment["USER"]
    assert daemon.values()["owner"] == pwd.getpwuid(os.geteuid()).pw_name


def test_an_owner_without_a_name_is_told(new_daemon):
    daemon = new_daemon()
    daemon.config = {}
    daemon.environment["USER"] = "äöü"
    assert "set --owner" in daemon.run_to_end("--check").stderr


# Keys and models.


@pytest.mark.parametrize(
    ("stored", "key"),
    [("literal-key", "literal-key"), ("$OTHER_NAME", "from-environment"), ("pre-${OTHER_NAME}", "pre-from-environment"),
     ("!echo from-command", "from-command"), ("$$dollar", "$dollar")],
)
def test_forms_of_a_stored_key(new_daemon, model, stored, key):
    daemon = new_daemon()
    daemon.write_agent_file("auth.json", {"scripted": {"type": "api_key", "key": stored}})
    daemon.environment["OTHER_NAME"] = "from-environment"
    daemon.start()
    model.script("ok")
    assert daemon.run("x").text() == "ok"
    assert model.requests[0].key == key


def test_a_stored_key_beats_models_json_beats_the_environment(new_daemon, model):
    daemon = new_daemon()
    anthropic = {"baseUrl": model.url}
    daemon.write_agent_file("models.json", {"providers": {"anthropic": anthropic}})
    daemon.environment["ANTHROPIC_API_KEY"] = "environment-key"
    daemon.config["defaultModel"] = "anthropic/claude-sonnet-4-5"
    daemon.start()
    model.answer(lambda request: "ok")

    def key_now(number):
        assert daemon.run("x").text() == "ok"
        return model.requests[number].key

    assert key_now(0) == "environment-key"
    # Edits of the files count for the next request, without a restart.
    daemon.write_agent_file("models.json", {"providers": {"anthropic": {**anthropic, "apiKey": "models-json-key"}}})
    assert key_now(1) == "models-json-key"
    daemon.write_agent_file("auth.json", {"anthropic": {"type": "api_key", "key": "stored-key"}})
    assert key_now(2) == "stored-key"
    assert not re.search("stored-key|models-json-key|environment-key", daemon.log_text())


def test_each_api_gets_its_key_and_headers(daemon, model):
    expected = {
        "anthropic-messages": {"x-api-key": API_KEY, "anthropic-version": "2023-06-01"},
        "openai-completions": {"authorization": f"Bearer {API_KEY}"},
        "openai-responses": {"authorization": f"Bearer {API_KEY}"},
        "google-generative-ai": {"x-goog-api-key": API_KEY},
    }
    model.answer(lambda request: "ok")
    for api, spec in MODELS.items():
        daemon.run("x", model=spec).text()
        headers = model.requests[-1].headers
        assert {name: headers.get(name) for name in expected[api]} == expected[api]
        assert headers["user-agent"].startswith("nats-pi-bridge/")


def test_the_log_has_neither_prompts_nor_answers_nor_keys(new_daemon, model):
    daemon = new_daemon().start("--log", "trace")
    model.script(
        ["word-of-the-answer", ToolCall("bash", {"command": "echo word-of-the-tool"})],
        Failure(401, {"error": {"message": "refused"}}),
    )
    stream = daemon.session("s", "word-of-the-prompt")
    stream.failure()
    daemon.stop_session("s")
    daemon.wait_log("session s .*(stopped|ended)")
    assert len(daemon.log) > 4
    assert not re.search("word-of-the", daemon.log_text())


def test_a_key_file_that_others_may_read_is_warned_about(new_daemon, model):
    daemon = new_daemon()
    path = daemon.write_agent_file("auth.json", {"scripted": {"type": "api_key", "key": "stored-key"}})
    path.chmod(0o644)
    daemon.start()
    model.script("a", "b")
    daemon.run("x").text()
    daemon.run("x").text()
    # Once is enough.
    assert len([line for line in daemon.log if str(path) in line]) == 1


@pytest.mark.parametrize(
    ("spec", "found", "level"),
    [("scripted/thinker:high", "scripted/thinker", "high"), ("thinker", "scripted/thinker", "medium"),
     ("SCRIPTED/One", "scripted/one", "off"), ("scripted/one:high", "scripted/one", "off")],
)
def test_forms_of_a_models_name(daemon, model, spec, found, level):
    model.script("ok")
    daemon.session("s", "x", model=spec).text()
    facts = daemon.inspect("s")
    assert (facts["model"], facts["thinkingLevel"]) == (found, level)


def test_an_unknown_model_names_similar_ones(daemon):
    request = {"sessionMode": "run", "body": "x", "cwd": str(daemon.cwd), "model": "scripted/thinkr"}
    assert "scripted/thinker" in daemon.refusal(request).document["message"]


@pytest.mark.parametrize("how", ["flag", "environment"])
def test_another_agent_directory(new_daemon, model, how):
    daemon = new_daemon()
    other = daemon.home / "other-agent"
    daemon.agent_dir.rename(other)
    arguments = ["--agent-dir", str(other)] if how == "flag" else []
    if how == "environment":
        daemon.environment["PI_CODING_AGENT_DIR"] = str(other)
    daemon.start(*arguments)
    model.script("ok")
    assert daemon.run("x").text() == "ok"


def test_defaults_of_the_configuration_reach_sessions(new_daemon, model):
    daemon = new_daemon()
    daemon.config.update(defaultModel="scripted/thinker", defaultThinkingLevel="low", defaultMaxLifetime=77)
    daemon.start()
    model.script("ok")
    daemon.session("s", "x").text()
    facts = daemon.inspect("s")
    assert (facts["model"], facts["thinkingLevel"], facts["maxLifetime"]) == ("scripted/thinker", "low", 77)


def test_without_any_model_a_request_says_what_is_missing(new_daemon, model):
    daemon = new_daemon()
    del daemon.config["defaultModel"]
    (daemon.agent_dir / "models.json").unlink()
    daemon.start()
    refused = daemon.refusal({"sessionMode": "run", "body": "x", "cwd": str(daemon.cwd)})
    # The offline model is for those who name it.
    assert refused.error == "session_create_failed"


def test_more_variables_for_tools(new_daemon, model):
    daemon = new_daemon()
    daemon.config["toolEnvironment"] = ["WANTED"]
    daemon.environment.update(WANTED="yes", UNWANTED="no")
    daemon.start()
    model.script([ToolCall("bash", {"command": "echo ${WANTED:-absent} ${UNWANTED:-absent}"})], "ok")
    daemon.run("x").text()
    assert model.requests[1].tool_results[0][0] == "yes absent\n"
