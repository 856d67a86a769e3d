"""Who asks for the end of a daemon, or of a session, hears that it was understood."""

import json

import pytest

from support.cli import Cli
from support.waiting import eventually

pytestmark = pytest.mark.any_server


def client(daemon):
    """pi-bridge, once the daemon can be found."""
    eventually(lambda: list(daemon.bridge_dir.glob("instances/*.json")), "the daemon is registered")
    return Cli(daemon.bridge_dir, daemon.cwd)


@pytest.mark.parametrize("_round", range(6))
def test_an_idle_daemon_answers_before_it_ends(new_daemon, _round):
    daemon = new_daemon().start()
    done = client(daemon)("shutdown")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["data"] == {"requested": True}
    assert daemon.wait_exit() == 0


def test_a_session_answers_before_it_ends(daemon, model):
    cli = client(daemon)
    for at in range(6):
        model.script("hello")
        daemon.session(f"s{at}", "go").text()
        name = f"s{at}"
        eventually(lambda name=name: f'"{name}"' in cli("list", "--json").stdout, "the session is registered")
        done = cli("shutdown", name)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["data"] == {"requested": True}
