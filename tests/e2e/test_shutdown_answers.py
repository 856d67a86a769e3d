"""Who asks for the end of a daemon, or of a session, hears that it was understood."""

import json

import pytest

from support.cli import Cli

pytestmark = pytest.mark.any_server


@pytest.mark.parametrize("_round", range(6))
def test_an_idle_daemon_answers_before_it_ends(new_daemon, _round):
    daemon = new_daemon().start()
    done = Cli(daemon.bridge_dir, daemon.cwd)("shutdown")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["data"] == {"requested": True}
    assert daemon.wait_exit() == 0


def test_a_session_answers_before_it_ends(daemon, model):
    cli = Cli(daemon.bridge_dir, daemon.cwd)
    for at in range(6):
        model.script("hello")
        daemon.session(f"s{at}", "go").text()
        done = cli("shutdown", f"s{at}")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["data"] == {"requested": True}
