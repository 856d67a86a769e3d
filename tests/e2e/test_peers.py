"""Clients that nobody here wrote say the same to the daemon, and hear the same from it. nats.py and the published agent client are
what most other tests talk through."""

import json
import subprocess

import pytest

from support import npm, peers

HEARD = {
    "list": 0,
    "stream": "one",
    "headers": "two",
    "error": "404",
    "no responders": "none",
    "services": 2,
    "counted": True,
    "queue group": 10,
}


@pytest.mark.npm
# The first one that runs may have to install its client.
@pytest.mark.timeout(npm.INSTALL_TIMEOUT + 60)
@pytest.mark.parametrize("client", [peers.nats_js, peers.libnats, peers.async_nats], ids=["nats.js", "libnats", "async-nats"])
def test_a_conversation(own_server, own_bus, new_daemon, model, tmp_path, client):
    # The services of other daemons would answer as well.
    server = own_server()
    daemon = new_daemon(server.url, own_bus(server.url)).start()
    model.script("one")
    model.script("two")
    command = [*client(tmp_path), server.url, daemon.owner, str(daemon.cwd)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr
    assert {line["step"]: line["answer"] for line in map(json.loads, done.stdout.splitlines())} == HEARD
