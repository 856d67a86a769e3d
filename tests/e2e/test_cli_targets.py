"""`send`, `steer` and `follow-up` take the session's name as their first word where there is a choice."""

import json

import pytest

from support.cli import lines
from support.fake_bridge import response

pytestmark = pytest.mark.any_server


def heard(bridge):
    return [(request["type"], request["message"]) for request in bridge.requests]


@pytest.fixture
def alpha(new_bridge):
    return new_bridge("id-a", sessionName="alpha")


@pytest.mark.parametrize("verb, kind", [("send", "prompt"), ("steer", "steer"), ("follow-up", "follow_up")])
def test_the_first_word_chooses_one_of_several_sessions(cli, alpha, new_bridge, verb, kind):
    beta = new_bridge("id-b", sessionName="beta")
    assert cli(verb, "id-b", "fix", "it").returncode == 0
    assert cli(verb, "alpha", "--now", "-", input="from a pipe").returncode == 0
    assert (heard(alpha), heard(beta)) == ([(kind, "from a pipe")], [(kind, "fix it")])
    # An option chooses, or no session is called so, or the word is all there is.
    assert cli(verb, "--session", "id-a", "beta", "is", "late").returncode == 0
    assert heard(alpha)[1:] == [(kind, "beta is late")]
    for words in (["bet", "x"], ["beta"], ["gamma", "x"]):
        refused = cli(verb, *words)
        assert refused.returncode == 1 and "Multiple matching" in lines(refused.stderr)[-1], words
    assert (len(alpha.requests), len(beta.requests)) == (2, 1)


def test_with_one_session_all_words_are_the_message(cli, alpha):
    assert cli("send", "alpha", "is", "late").returncode == 0
    assert cli("send", "id-a").returncode == 0
    assert heard(alpha) == [("prompt", "alpha is late"), ("prompt", "id-a")]


def test_a_name_that_two_sessions_have_chooses_none(cli, alpha, new_bridge):
    other = new_bridge("id-c", sessionName="alpha")
    refused = cli("send", "alpha", "hello")
    assert refused.returncode == 1 and "Multiple matching" in refused.stderr
    assert alpha.requests == other.requests == []


def test_a_session_that_its_daemon_does_not_have_is_told_with_a_near_name(cli, new_bridge):
    daemon = new_bridge("daemon", role="daemon", sessionId=None)
    new_bridge("web", daemonSocketPath=str(daemon.path))
    for verb in ("stop", "inspect"):
        daemon.on(verb, lambda request: [{**response(request, error="not_found"), "code": "not_found"}])
        refused = cli(verb, "wbe")
        assert refused.returncode == 1 and json.loads(refused.stdout)["code"] == "not_found"
        assert refused.stderr == "No such session: wbe; did you mean web? (see pi-bridge list)\n"
