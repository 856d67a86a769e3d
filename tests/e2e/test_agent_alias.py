"""The name that web interfaces look for: the controller and the sessions are agents of it as well."""

import json

import pytest

from support.agents import AgentClient
from support.bus import NoResponders
from test_two_daemons import MANY, Pair

ALIAS = "pi-headless"


def by_agent(client, owner, name):
    """What discovery shows of one agent, by the names of its kind."""
    found = client.bus.call(client.agents.discover(stall=0.3))
    return {agent.agent: agent for agent in found if agent.owner == owner and agent.session_name == name}


def subject(daemon, verb, name="control"):
    return f"agents.{verb}.{ALIAS}.{daemon.owner}.{name}"


@pytest.fixture
def daemon(new_daemon, model):
    model.answer(lambda _request: "ok")
    daemon = new_daemon()
    daemon.config.update(agentAlias=ALIAS, heartbeatInterval=1)
    return daemon.start()


def test_all_that_such_an_interface_does(daemon):
    """It looks for the controller, has it start a session, finds that by its instance, prompts, lists and stops it."""
    client = AgentClient(daemon.bus)
    controllers = by_agent(client, daemon.owner, "control")
    assert set(controllers) == {"pi-exec", ALIAS}
    assert controllers[ALIAS].metadata["role"] == "controller"
    assert controllers[ALIAS].prompt_endpoint.subject == subject(daemon, "prompt")
    assert controllers[ALIAS].instance_id != controllers["pi-exec"].instance_id
    made = daemon.bus.ask_json(subject(daemon, "spawn"), {"cwd": "/", "session_id": "worker"})
    assert (made["subject"], made["heartbeat_subject"], made["status_subject"]) == tuple(
        subject(daemon, verb, "worker") for verb in ("prompt", "hb", "status")
    )
    sessions = by_agent(client, daemon.owner, "worker")
    agent = sessions[ALIAS]
    assert (agent.metadata["role"], agent.instance_id) == ("session", made["instance_id"])
    assert agent.instance_id != sessions["pi-exec"].instance_id
    assert client.prompt(agent, "go").text == client.prompt(sessions["pi-exec"], "go").text == "ok"
    assert client.status(agent).instance_id == agent.instance_id
    (row,) = daemon.bus.ask_json(subject(daemon, "list"))["sessions"]
    assert (row["subject"], row["instance_id"]) == (made["subject"], made["instance_id"])
    (own,) = daemon.bus.ask_json(f"agents.list.pi-exec.{daemon.owner}.control")["sessions"]
    assert own["subject"] == f"agents.prompt.pi-exec.{daemon.owner}.worker"
    assert daemon.bus.ask_json(subject(daemon, "stop"), {"session_id": "worker"}) == {"ok": True, "session_id": "worker"}
    assert by_agent(client, daemon.owner, "worker") == {}


def test_signs_of_life_come_by_both_names(daemon):
    daemon.session("worker", "hi").text()
    for name in ("control", "worker"):
        for agent in ("pi-exec", ALIAS):
            beat = json.loads(daemon.bus.listen(f"agents.hb.{agent}.{daemon.owner}.{name}").message().data)
            assert (beat["agent"], beat["session"]) == (agent, name)
            assert beat["endpoints"]["prompt"]["subject"] == f"agents.prompt.{agent}.{daemon.owner}.{name}"
            status = daemon.bus.ask_json(f"agents.status.{agent}.{daemon.owner}.{name}")
            assert status["instance_id"] == beat["instance_id"]


def test_a_list_of_two_daemons_is_by_the_name_that_was_asked(new_daemon, bus, model):
    model.answer(lambda _request: "ok")

    def make(**options):
        daemon = new_daemon(**options)
        daemon.config["agentAlias"] = ALIAS
        return daemon

    pair = Pair(make, bus)
    names = [f"s{number:02}" for number in range(MANY)]
    for name in names:
        pair.request("session", sessionId=name, body="hi").text()
    assert {pair.owner_of(name) for name in names} == set(pair.daemons)
    for agent in (ALIAS, "pi-exec"):
        rows = bus.ask_json(f"agents.list.{agent}.{pair.owner}.control")["sessions"]
        assert [row["subject"] for row in rows] == [f"agents.prompt.{agent}.{pair.owner}.{name}" for name in names]


def test_without_the_setting_there_is_one_name(new_daemon, model):
    model.answer(lambda _request: "ok")
    daemon = new_daemon().start()
    daemon.session("worker", "hi").text()
    client = AgentClient(daemon.bus)
    assert set(by_agent(client, daemon.owner, "control")) == set(by_agent(client, daemon.owner, "worker")) == {"pi-exec"}
    with pytest.raises(NoResponders):
        daemon.bus.ask(subject(daemon, "list"))


@pytest.mark.parametrize("name", ["", "pi-exec", "a.b", "*", "Pi", "x" * 64])
def test_what_is_no_such_name(new_daemon, name):
    daemon = new_daemon()
    daemon.config["agentAlias"] = name
    done = daemon.run_to_end("--check")
    assert done.returncode == (78 if name else 0), done.stderr
    assert not name or "agentAlias" in done.stderr
