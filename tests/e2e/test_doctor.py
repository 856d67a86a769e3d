"""`nats-pi-bridge doctor`: what will not do is named, with what to do about it."""

import json
import os
import re

import pytest

from support.nats_server import free_port


def doctor(daemon, *arguments):
    """Exit code, and (health, text, fix) of all findings by what they are about."""
    done = daemon.run_to_end("doctor", "--json", *arguments)
    document = json.loads(done.stdout)
    assert document["ok"] == (done.returncode == 0)
    found = {}
    for finding in document["findings"]:
        assert finding["health"] in ("ok", "warning", "failure")
        found.setdefault(finding["about"], []).append((finding["health"], finding["text"], finding.get("fix", "")))
    return done.returncode, found


def worst(findings):
    return max((health for health, *_ in findings), key=["ok", "warning", "failure"].index)


def test_all_is_well_on_a_machine_like_this(new_daemon):
    daemon = new_daemon()
    daemon.config["maxSessions"] = 10
    for folder in (daemon.agent_dir, daemon.home / ".pi"):
        folder.chmod(0o700)
    code, found = doctor(daemon)
    assert code == 0, found
    assert found["version"][0][:2] == ("ok", "nats-pi-bridge 0.1.0")
    ((health, text, _),) = found["NATS"]
    assert health == "ok" and re.search(r"127\.0\.0\.1:\d+: version \S+, with(out)? JetStream", text)
    assert worst(found["permissions"]) == worst(found["folders"]) == worst(found["clock"]) == "ok", found
    assert found["model"] == [("ok", found["model"][0][1], "")] and found["model"][0][1].startswith("scripted/one  (defaultModel")
    assert ("ok", "scripted: key in", "") in [(health, text[:16], fix) for health, text, fix in found["keys"]], found["keys"]
    assert "sandbox workspace at level " in found["sandbox"][0][1]
    text = daemon.run_to_end("doctor")
    assert text.returncode == 0 and re.search(r"^ok       version     nats-pi-bridge", text.stdout, re.MULTILINE)


@pytest.mark.any_server
def test_what_will_not_do_is_named_with_the_fix(new_daemon):
    daemon = new_daemon(f"nats://127.0.0.1:{free_port()}")
    auth = daemon.write_agent_file("auth.json", {"anthropic": {"type": "api_key", "key": "sk-secret"}})
    auth.chmod(0o644)
    daemon.config |= {"defaultModel": "openai/gpt-5", "sessionDir": "/proc/nowhere", "maxSessions": 15_000}
    daemon.write_agent_file("settings.json", "{\n nonsense")
    daemon.agent_dir.chmod(0o777)
    code, found = doctor(daemon)
    assert code == 1
    (nats,) = found["NATS"]
    assert nats[0] == "failure" and "refused" in nats[1] and "--server" in nats[2]
    assert [text for _, text, _ in found["keys"] if text.startswith("anthropic: key in")], found["keys"]
    assert [text for health, text, _ in found["keys"] if health == "warning" and "settings.json" in text and "line 2" in text], found
    assert found["model"][0][0] == "failure" and "openai" in found["model"][0][1].lower()
    folders = {text.split()[0]: (health, fix) for health, text, fix in found["folders"]}
    assert folders["sessionDir"][0] == "failure"
    assert folders["auth.json"] == ("warning", f"chmod 600 {auth}")
    assert folders["agentDir"] == ("warning", f"chmod go-w {daemon.agent_dir}")
    limits = [(health, fix) for health, text, fix in found["limits"] if text.startswith("max_map_count")]
    assert limits[0][0] == "warning" and "vm.max_map_count to 120200, or set maxSessions to " in limits[0][1]
    assert "sk-secret" not in daemon.run_to_end("doctor").stdout


@pytest.mark.any_server
def test_a_port_of_something_else_is_no_nats_server(new_daemon, model):
    daemon = new_daemon(model.url.replace("http", "nats").removesuffix("/v1"))
    code, found = doctor(daemon)
    assert code == 1 and "that is no NATS server" in found["NATS"][0][1], found["NATS"]


def test_what_a_user_may_not_do_is_named(new_daemon, own_server):
    server = own_server(
        """authorization { users: [{ user: u, password: p, permissions: {
            subscribe: ["_INBOX.>", "agents.>"], publish: ["agents.>", "$SYS.REQ.USER.INFO"], allow_responses: true } }] }"""
    )
    daemon = new_daemon(server.url)
    daemon.config |= {"user": "u", "password": "p"}
    code, found = doctor(daemon)
    assert code == 1
    texts = [(health, text) for health, text, _ in found["permissions"]]
    assert ("failure", 'Permissions Violation for Subscription to "$SRV.PING"') in texts, texts
    assert [fix for health, text, fix in found["permissions"] if health == "warning" and "allow_responses" in fix], found
    daemon.config["password"] = "wrong"
    code, found = doctor(daemon)
    assert code == 1 and found["NATS"][-1][0] == "failure" and "Authorization Violation" in found["NATS"][-1][1], found["NATS"]


@pytest.mark.any_server
def test_wrong_settings_are_a_failure_and_wrong_words_are_refused(new_daemon):
    daemon = new_daemon()
    daemon.config["maxQueue"] = 0
    code, found = doctor(daemon)
    assert code == 1 and '"maxQueue"' in found["settings"][0][1]
    assert daemon.run_to_end("doctor", "--nonsense").returncode == 2


@pytest.mark.any_server
@pytest.mark.skipif(os.geteuid() == 0, reason="root can write everywhere")
def test_a_folder_that_cannot_be_written_is_a_failure(new_daemon, tmp_path):
    daemon = new_daemon()
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    daemon.config["stateDir"] = str(closed)
    code, found = doctor(daemon)
    assert code == 1 and worst(found["folders"]) == "failure"
