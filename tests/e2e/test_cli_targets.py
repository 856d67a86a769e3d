"""`send`, `steer` and `follow-up` take the session's name as their first word where there is a choice."""

import pytest

from support.cli import lines


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
