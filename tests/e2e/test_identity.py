"""Who the daemon is on NATS, and whom it takes requests from: chapter 13 of the agent protocol."""

import json
import re

import pytest
from support.agents import AgentClient
from support.keys import Operator, new_user
from synadia_ai.agents.identity import VerifiedSender, verify_sender


@pytest.fixture
def keyed(tmp_path, own_server, own_bus, new_daemon):
    """Daemons that have a key, by how they got it; each with its agents' client."""

    def make(kind):
        plain = {"user": "plain", "password": "secret"}
        if kind == "creds":
            operator = Operator()
            server = own_server(operator.server_config)
            path = tmp_path / "user.creds"
            path.write_text(operator.creds)
            bus = own_bus(server.url, user_credentials=str(path))
        else:
            key, seed = new_user()
            path = tmp_path / "user.nk"
            path.write_text(seed)
            users = {
                "nkey": f"authorization {{ users: [ {{ nkey: {key} }}, {{ user: plain, password: secret }} ] }}",
                "account": "accounts { ACME { users: [ { nkey: %s }, { user: plain, password: secret } ] } }" % key,
                "forbidden": "authorization { users: [ { nkey: %s, permissions: { publish: { deny: '$SYS.>' } } },"
                " { user: plain, password: secret } ] }" % key,
            }
            server = own_server(users[kind])
            bus = own_bus(server.url, **plain)
        daemon = new_daemon(server.url, bus)
        daemon.config["heartbeatInterval"] = 1
        daemon.start("--creds" if kind == "creds" else "--nkey", str(path))
        return daemon

    return make


@pytest.mark.parametrize(("kind", "account"), [("creds", "A[A-Z2-7]{55}"), ("nkey", r"\$G"), ("account", "ACME")])
def test_every_agent_proves_whose_it_is(keyed, model, kind, account):
    daemon = keyed(kind)
    model.script("hello")
    daemon.session("worker", "hi").text()
    client = AgentClient(daemon.bus)
    for name in ("worker", "control"):
        agent = client.find(daemon.owner, name)
        assert agent.id_sig_verified, name
        assert re.fullmatch(account + r"\.U[A-Z2-7]{55}", str(agent.identity))
        beats = daemon.bus.listen(f"agents.hb.pi-exec.{daemon.owner}.{name}")
        first, second = beats.message(), beats.message()
        for beat in (first, second):
            sender = verify_sender(beat, "live")
            assert isinstance(sender, VerifiedSender) and str(sender.id) == str(agent.identity)
            assert json.loads(beat.headers["Agent-Sender"])["ts"] == json.loads(beat.data)["ts"]
        nonces = {json.loads(beat.headers["Agent-Sender"])["nonce"] for beat in (first, second)}
        assert len(nonces) == 2


def test_without_an_answer_to_who_it_is_it_claims_nothing(keyed):
    daemon = keyed("forbidden")
    agent = AgentClient(daemon.bus).find(daemon.owner, "control")
    assert agent.identity is None and not agent.id_sig_verified
    beat = daemon.bus.listen(f"agents.hb.pi-exec.{daemon.owner}.control").message()
    assert not beat.headers and json.loads(beat.data)["owner"] == daemon.owner


def test_without_a_key_it_claims_nothing(new_daemon):
    daemon = new_daemon()
    daemon.config["heartbeatInterval"] = 1
    daemon.start()
    assert AgentClient(daemon.bus).find(daemon.owner, "control").identity is None
    assert not daemon.bus.listen(f"agents.hb.pi-exec.{daemon.owner}.control").message().headers
