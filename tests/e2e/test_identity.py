"""Who the daemon is on NATS, and whom it takes requests from: chapter 13 of the agent protocol."""

import json
import re
import signal

import pytest
from support.agents import AgentClient
from support.bus import ERROR_CODE
from support.keys import Operator, new_user
from support.waiting import eventually
from synadia_ai.agents.identity import Identity, VerifiedSender, signer_from_seed, verify_sender
from synadia_ai.agents.identity.signed_publish import signed_publish_headers


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


# Whom it takes requests from.


class Caller:
    """A user with a key, who signs prompts and can send one again as it was."""

    def __init__(self, daemon, url, own_bus, key, seed):
        self.daemon, self.key = daemon, key
        self.bus = own_bus(url, nkeys_seed_str=seed)
        self.identity = Identity(signer=signer_from_seed(seed))

    def sign(self, payload, name="worker"):
        subject = f"agents.prompt.pi-exec.{self.daemon.owner}.{name}"
        headers = self.bus.call(signed_publish_headers(self.identity, self.bus.connection, subject, payload))
        return subject, payload, {"Agent-Sender": headers["Agent-Sender"]}

    def send(self, request):
        """The code of the refusal, or nothing."""
        subject, payload, headers = request
        stream = self.bus.request(subject, payload, headers=headers)
        while (message := stream.message()).data:
            if message.headers and ERROR_CODE in message.headers:
                return json.loads(message.data)["error"]
        return None

    def spawn(self, name="worker"):
        subject = f"agents.spawn.pi-exec.{self.daemon.owner}.control"
        body = json.dumps({"cwd": str(self.daemon.cwd), "session_id": name}).encode()
        headers = self.bus.call(signed_publish_headers(self.identity, self.bus.connection, subject, body))
        return json.loads(self.bus.ask(subject, body, headers={"Agent-Sender": headers["Agent-Sender"]}).data)


@pytest.fixture
def callers(own_server, own_bus, new_daemon):
    """Two users with keys, and a daemon that wants signatures."""
    users = [new_user(), new_user()]
    keys = ", ".join(f"{{ nkey: {key} }}" for key, _ in users)
    server = own_server(f"authorization {{ users: [ {keys}, {{ user: plain, password: secret }} ] }}")
    daemon = new_daemon(server.url, own_bus(server.url, user="plain", password="secret"))
    daemon.config.update(user="plain", password="secret", minSenderTrust="signed")
    return [Caller(daemon, server.url, own_bus, *user) for user in users]


def test_only_trusted_users_count(callers, model):
    friend, stranger = callers
    friend.daemon.config["trustedSenders"] = [friend.key]
    friend.daemon.start()
    model.script("done", "done")
    assert stranger.spawn("other")["error"] == "forbidden"
    assert friend.spawn()["session_id"] == "worker"
    assert stranger.send(stranger.sign(b"go")) == "sender_forbidden"
    assert friend.send(friend.sign(b"go")) is None


def test_trust_without_signatures_is_warned_about(new_daemon):
    daemon = new_daemon()
    daemon.config["trustedSenders"] = [new_user()[0]]
    assert "trustedSenders" in daemon.run_to_end("--check").stderr
    daemon.config["minSenderTrust"] = "signed"
    assert "trustedSenders" not in daemon.run_to_end("--check").stderr


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGKILL])
def test_no_signature_counts_twice_after_a_restart(callers, model, ending):
    caller, _ = callers
    daemon = caller.daemon.start()
    model.script("done", "done", "done")
    caller.spawn()
    request = caller.sign(b"go")
    assert caller.send(request) is None
    assert caller.send(request) == "sender_rejected"
    waiting = caller.sign(b"later")
    daemon.signal(ending)
    daemon.wait_exit()
    daemon.start()
    assert caller.send(request) == "sender_rejected"
    # What was signed before a crash may have been accepted before it.
    assert caller.send(waiting) == (None if ending == signal.SIGTERM else "sender_rejected")
    eventually(lambda: caller.send(caller.sign(b"anew")) is None, "a new signature counts")
