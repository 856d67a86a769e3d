"""The built-in model that needs no network: for trying the daemon out, and for tests of other people's programs."""

import json
import time

import pytest

pytestmark = pytest.mark.any_server


@pytest.fixture
def offline(new_daemon):
    """A daemon with nothing configured but the server."""
    daemon = new_daemon()
    del daemon.config["defaultModel"]
    (daemon.agent_dir / "models.json").unlink()
    return daemon.start("--model", "offline/demo")


def test_it_says_that_it_is_no_model(offline):
    text = offline.run("Hello there").text()
    assert "offline/demo" in text and "no model" in text
    assert "Hello there" in text


def test_echo(offline):
    assert offline.run("@echo one two\n@echo ünï").text().endswith("one two\nünï")


def test_recall(offline):
    offline.session("s", "Remember 417").text()
    offline.prompt("s", "and the colour green").text()
    text = offline.prompt("s", "@recall").text()
    assert "Remember 417" in text and "and the colour green" in text
    assert "417" not in offline.run("@recall").text()


def test_tools_really_run(offline):
    text = offline.run('@tool write {"path": "a.txt", "content": "by the tool"}\n@tool bash {"command": "cat a.txt; echo"}').text()
    assert (offline.cwd / "a.txt").read_text() == "by the tool"
    assert "by the tool" in text


def test_parallel_tools(offline):
    wait = "touch {0}; for i in $(seq 500); do [ -e {1} ] && break; sleep 0.02; done; [ -e {1} ] && echo met-{1}"
    commands = [json.dumps({"command": wait.format(*pair)}) for pair in (("a", "b"), ("b", "a"))]
    prompt = "@parallel\n" + "\n".join(f"@tool bash {command}" for command in commands)
    text = offline.run(prompt).text()
    assert "met-a" in text and "met-b" in text


def test_stream(offline):
    stream = offline.run("@stream 20 of 7 bytes")
    stream.text()
    assert [len(piece) for piece in stream.payloads].count(7) == 20


def test_a_paced_stream_takes_its_time_and_is_not_held_back(offline):
    begun = time.monotonic()
    stream = offline.run("@stream 10 every 50 ms")
    stream.chunk()
    stream.chunk()
    early = time.monotonic() - begun
    stream.text()
    assert time.monotonic() - begun >= 0.45
    assert early < 0.4


def test_a_stream_can_be_stopped(offline):
    stream = offline.session("s", "@stream 1000 every 100 ms")
    stream.chunk()
    begun = time.monotonic()
    assert offline.stop_session("s")["ok"] is True
    assert time.monotonic() - begun < 2
    assert stream.failure().text == "error: session stopped"


def test_thinking_is_not_sent(offline):
    text = offline.run("@think deep thoughts\n@echo the answer").text()
    assert "the answer" in text and "deep thoughts" not in text


@pytest.mark.parametrize("kind", ["rate_limit", "overloaded", "auth", "overflow", "cut", "refuse"])
def test_failures(offline, kind):
    failed = offline.run(f"@fail {kind}").failure()
    assert failed.text.startswith("error: ")


@pytest.mark.parametrize("kind", ["rate_limit", "overloaded", "cut"])
def test_failures_that_pass(offline, kind):
    assert "after all" in offline.run(f"@fail {kind} 2\n@echo after all").text()


def test_a_cut_off_answer_still_ends_well(offline):
    offline.session("s", "@length").text()
    assert offline.inspect("s")["errors"] == 0


def test_it_counts_tokens_and_costs_nothing(offline):
    offline.session("s", "@echo four letters each").text()
    facts = offline.inspect("s")
    assert facts["model"] == "offline/demo"
    assert facts["tokens"]["output"] > 0 and facts["cost"] == 0


def test_it_is_used_only_when_named(offline, new_daemon, model):
    """A daemon without keys refuses, rather than answer with a script."""
    daemon = new_daemon()
    del daemon.config["defaultModel"]
    (daemon.agent_dir / "models.json").unlink()
    daemon.start()
    refused = daemon.refusal({"sessionMode": "run", "body": "x", "cwd": str(daemon.cwd)})
    assert refused.error == "session_create_failed"
    # Named by the request, it serves.
    assert "hi" in daemon.run("@echo hi", model="offline/demo").text()
