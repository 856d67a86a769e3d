"""Ways to the NATS server: contexts, credentials, TLS."""

import re

import nkeys
import pytest

from support.keys import Operator, new_pair
from support.model_script import Gate
from support.waiting import eventually


def test_a_context_names_the_server(nats_server, new_daemon):
    daemon = new_daemon()
    del daemon.config["server"]
    daemon.context("lab", url=nats_server.url, description="ignored", token="")
    daemon.environment["NATS_CONTEXT"] = "lab"
    daemon.start()
    daemon.wait_log(rf"connecting to (nats://)?{re.escape(nats_server.address)} \(context: lab\)$")


def test_flag_beats_environment_beats_file_for_contexts(new_daemon):
    daemon = new_daemon()
    for name in ("one", "two", "three"):
        daemon.context(name, url=f"{name}:1")
    daemon.config = {"context": "one"}
    assert daemon.values()["server"] == "one:1"
    daemon.environment["NATS_CONTEXT"] = "two"
    assert daemon.values()["server"] == "two:1"
    assert daemon.values("--context", "three")["server"] == "three:1"


@pytest.mark.parametrize("how", ["flag", "environment"])
def test_a_server_beside_a_context_keeps_its_credentials(how, own_server, own_bus, new_daemon):
    server = own_server('authorization { user: me, password: "p w" }')
    daemon = new_daemon(server.url, own_bus(server.url, user="me", password="p w"))
    del daemon.config["server"]
    daemon.context("auth", url="nats://127.0.0.1:1", user="me", password="p w")
    if how == "flag":
        daemon.start("--context", "auth", "--server", server.url)
    else:
        daemon.environment.update(NATS_CONTEXT="auth", NATS_URL=server.url)
        daemon.start()
    assert "p w" not in daemon.log_text()


def test_a_context_of_a_stronger_source_brings_its_server(new_daemon):
    daemon = new_daemon()
    daemon.context("mine", url="mine:1")
    daemon.environment["NATS_URL"] = "other:1"
    assert daemon.values("--context", "mine")["server"] == "mine:1"


@pytest.mark.parametrize("variable", ["NATS_CONFIG_HOME", "XDG_CONFIG_HOME"])
def test_contexts_elsewhere(new_daemon, variable):
    daemon = new_daemon()
    daemon.config = {}
    path = daemon.context("moved", url="elsewhere:1")
    folder = path.parent.parent  # .../nats
    folder.rename(daemon.home / "nats")
    daemon.environment[variable] = str(daemon.home / "nats" if variable == "NATS_CONFIG_HOME" else daemon.home)
    assert daemon.values("--context", "moved")["server"] == "elsewhere:1"


@pytest.mark.parametrize(
    "field", [{"nsc": "nsc://x/y/z"}, {"socks_proxy": "socks5://h:1"}, {"url": "ws://h:80"}, {"url": "wss://h"}], ids=str
)
def test_a_context_that_asks_for_what_there_is_not(new_daemon, field):
    """Better no connection than one that goes another way than it was told to."""
    daemon = new_daemon()
    daemon.context("odd", **{"url": "h:1", **field})
    done = daemon.run_to_end("--context", "odd")
    assert done.returncode == 78
    (name,) = field
    assert "odd" in done.stderr and (name in done.stderr or "websocket" in done.stderr.lower())


@pytest.mark.parametrize(
    ("name", "content"),
    [("missing", None), ("broken", "{"), ("../escape", None), ("a/b", None), ("typed", '{"url": 5}')],
)
def test_an_unreadable_context_ends_with_78(new_daemon, name, content):
    daemon = new_daemon()
    if content is not None:
        path = daemon.context(name)
        path.write_text(content)
    done = daemon.run_to_end("--context", name)
    assert done.returncode == 78
    assert name in done.stderr


@pytest.fixture(scope="module")
def user_key():
    _, seed, public = new_pair(nkeys.PREFIX_BYTE_USER)
    return seed, public


@pytest.fixture(scope="module")
def operator():
    return Operator()


class TestAuthentication:
    """Each way in, and that a wrong credential stays outside."""

    def start(self, new_daemon, server, bus, *arguments, **config):
        daemon = new_daemon(server.url, bus)
        daemon.config.update(config)
        return daemon.start(*arguments)

    def test_user_and_password(self, own_server, own_bus, new_daemon):
        server = own_server('authorization { user: me, password: "secret-9" }')
        bus = own_bus(server.url, user="me", password="secret-9")
        for arguments, config in [
            (["--user", "me", "--password", "secret-9"], {}),
            ([], {"user": "me", "password": "secret-9"}),
            (["--server", f"nats://me:secret%2D9@{server.address}"], {}),
        ]:
            daemon = self.start(new_daemon, server, bus, *arguments, **config)
            assert "secret-9" not in daemon.log_text() and "secret%2D9" not in daemon.log_text()

    def test_token(self, own_server, own_bus, new_daemon):
        server = own_server('authorization { token: "secret-9" }')
        bus = own_bus(server.url, token="secret-9")
        self.start(new_daemon, server, bus, "--token", "secret-9")
        daemon = self.start(new_daemon, server, bus, "--server", f"nats://secret-9@{server.address}")
        assert "secret-9" not in daemon.log_text()

    def test_wrong_password_is_retried_and_told(self, own_server, new_daemon):
        server = own_server('authorization { user: me, password: "secret-9" }')
        daemon = new_daemon(server.url, None)
        daemon.spawn("--user", "me", "--password", "wrong-one")
        line = daemon.wait_log("(?i)authorization")
        assert daemon.running()
        assert "wrong-one" not in line

    def test_nkey(self, tmp_path, own_server, own_bus, new_daemon, user_key):
        seed, public = user_key
        server = own_server(f"authorization {{ users: [ {{ nkey: {public} }} ] }}")
        path = tmp_path / "user.nk"
        path.write_text(f"{seed}\n")
        self.start(new_daemon, server, own_bus(server.url, nkeys_seed_str=seed), "--nkey", str(path))

    def test_creds(self, tmp_path, own_server, own_bus, new_daemon, operator):
        server = own_server(operator.server_config)
        path = tmp_path / "user.creds"
        path.write_text(operator.creds)
        bus = own_bus(server.url, user_credentials=str(path))
        self.start(new_daemon, server, bus, "--creds", str(path))
        daemon = new_daemon(server.url, bus)
        del daemon.config["server"]
        daemon.context("jwt", url=server.url, creds=str(path))
        daemon.start("--context", "jwt")

    @pytest.mark.parametrize("flag", ["--creds", "--nkey"])
    def test_a_missing_file_is_named(self, own_server, new_daemon, flag):
        """It may still come, as certificates and credentials are renewed while the daemon runs."""
        daemon = new_daemon(own_server().url, None).spawn(flag, "/no/such/file")
        daemon.wait_log("/no/such/file")
        assert "pi-exec: connected" not in daemon.log_text()


def test_a_public_server_is_warned_about(new_daemon):
    daemon = new_daemon()
    daemon.config = {}
    done = daemon.run_to_end("--server", "demo.nats.io", "--check")
    assert done.returncode == 0
    assert "public" in done.stderr
    assert "public" not in daemon.run_to_end("--check").stderr


class TestTls:
    def start(self, new_daemon, own_bus, certificates, server, *arguments, first=False):
        bus = own_bus(server.url, tls=certificates.client_context(), tls_handshake_first=first)
        return new_daemon(server.url, bus).start(*arguments)

    def test_a_private_authority(self, own_server, own_bus, new_daemon, certificates):
        server = own_server(certificates.server_config(), scheme="tls")
        daemon = self.start(new_daemon, own_bus, certificates, server, "--tls-ca", certificates.authority)
        assert daemon.list()["sessions"] == []

    def test_the_server_may_ask_for_tls_by_itself(self, own_server, own_bus, new_daemon, certificates):
        """The address says nats://, the server's INFO says that TLS is required."""
        server = own_server(certificates.server_config())
        self.start(new_daemon, own_bus, certificates, server, "--tls-ca", certificates.authority)

    def test_an_unknown_authority_is_refused(self, own_server, new_daemon, certificates):
        server = own_server(certificates.server_config(), scheme="tls")
        for arguments in ([], ["--tls-ca", certificates.other_authority]):
            daemon = new_daemon(server.url, None).spawn(*arguments)
            daemon.wait_log("(?i)certificate")
            assert daemon.running()

    def test_a_missing_authority_is_named(self, own_server, new_daemon, certificates):
        server = own_server(certificates.server_config(), scheme="tls")
        daemon = new_daemon(server.url, None).spawn("--tls-ca", "/no/such/file")
        daemon.wait_log("/no/such/file")
        assert daemon.running()

    def test_a_server_without_tls_is_refused(self, own_server, new_daemon, certificates):
        """Whoever asks for TLS must not get an open connection instead."""
        server = own_server(scheme="tls")
        daemon = new_daemon(server.url, None).spawn("--tls-ca", certificates.authority)
        daemon.wait_log("(?i)tls")
        assert "pi-exec: connected" not in daemon.log_text()

    def test_a_client_certificate(self, own_server, own_bus, new_daemon, certificates):
        server = own_server(certificates.server_config(f'ca_file: "{certificates.authority}", verify: true'))
        pair = ["--tls-cert", certificates.client, "--tls-key", certificates.client_key]
        self.start(new_daemon, own_bus, certificates, server, "--tls-ca", certificates.authority, *pair)

    def test_tls_first(self, own_server, own_bus, new_daemon, certificates):
        # Such a server says nothing before the handshake.
        server = own_server(certificates.server_config("handshake_first: true"), scheme="tls", wait=False)
        server.start(speaks_first=False)
        arguments = ["--tls-first", "--tls-ca", certificates.authority]
        self.start(new_daemon, own_bus, certificates, server, *arguments, first=True)

    def test_tls_from_a_context(self, own_server, own_bus, new_daemon, certificates):
        server = own_server(certificates.server_config(f'ca_file: "{certificates.authority}", verify: true'))
        daemon = new_daemon(server.url, own_bus(server.url, tls=certificates.client_context()))
        del daemon.config["server"]
        files = {"ca": certificates.authority, "cert": certificates.client, "key": certificates.client_key}
        daemon.context("secure", url=f"tls://{server.address}", **files)
        daemon.start("--context", "secure")

    def test_a_restart_of_the_server_over_tls(self, own_server, own_bus, new_daemon, certificates, model):
        server = own_server(certificates.server_config(), scheme="tls")
        daemon = self.start(new_daemon, own_bus, certificates, server, "--tls-ca", certificates.authority)
        gate = Gate()
        model.script(["before ", gate, "after"])
        stream = daemon.session("s", "x")
        stream.until("before ")
        server.stop()
        server.start()
        eventually(lambda: daemon.bus.connection.is_connected, "the caller is back")
        daemon.wait_ready()
        gate.open()
        assert stream.text() == "before after"

    def test_everything_works_over_tls(self, own_server, own_bus, new_daemon, certificates, model):
        server = own_server(certificates.server_config(), scheme="tls")
        daemon = self.start(new_daemon, own_bus, certificates, server, "--tls-ca", certificates.authority)
        pieces = [f"{number:05} " * 50 for number in range(1000)]
        model.script(pieces, "again")
        assert daemon.session("s", "x").text() == "".join(pieces)
        assert daemon.prompt("s", "y").text() == "again"
        assert daemon.stop_session("s")["ok"] is True
