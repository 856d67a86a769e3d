"""NATS servers that are not set up as usual, and what changes on them while the daemon runs."""

import json
import signal

import pytest

PASSWORDS = 'authorization {{ users: [ {{ user: me, password: "{}" }}, {{ user: other, password: "other" }} ] }}'


def test_a_server_without_headers_is_used_without_them(own_server, own_bus, new_daemon, model):
    server = own_server("no_header_support: true")
    daemon = new_daemon(server.url, own_bus(server.url)).start()
    model.script("hello", "again")
    assert daemon.session("worker", "hi").text() == "hello"
    assert daemon.prompt("worker", "go").text() == "again"
    refusal = daemon.bus.request(daemon.intake, b"{")
    message = refusal.message()
    assert not message.headers and json.loads(message.data)["error"] == "invalid_json"
    # A prompt's error is a document where text would be, and has its end like any other.
    refused = daemon.prompt("worker", b"")
    document = refused.message()
    assert not document.headers and b"prompt" in document.data.lower()
    refused.terminator()
    assert daemon.inspect("worker")["sessionId"] == "worker"


@pytest.mark.parametrize("kind", ["password", "token"])
def test_changed_credentials_of_a_context_are_read_again(own_server, own_bus, new_daemon, kind):
    def config(secret):
        return PASSWORDS.format(secret) if kind == "password" else f'authorization {{ token: "{secret}" }}'

    def fields(secret):
        return {"user": "me", "password": secret} if kind == "password" else {"token": secret}

    server = own_server(config("old-secret"))
    bus = own_bus(server.url, **fields("old-secret"))
    daemon = new_daemon(server.url, bus)
    del daemon.config["server"]
    daemon.context("mine", url=server.url, **fields("old-secret"))
    daemon.start("--context", "mine")
    server.configure(config("new-secret"))
    server.process.send_signal(signal.SIGHUP)
    daemon.wait_log("(?i)authorization|authentication")
    # A file that is being written is not the end either.
    daemon.context("mine").write_text("{")
    daemon.context("mine", url=server.url, **fields("new-secret"))
    daemon.bus = own_bus(server.url, **fields("new-secret"))
    daemon.wait_ready()
    assert "secret" not in daemon.log_text()
