"""Rules: what tools may be called with, from the configuration and from requests."""

import json

import pytest

from support.bridge import Bridge
from support.model_script import ToolCall

pytestmark = pytest.mark.any_server

PUSH = {"tool": "bash", "match": "git push*", "do": "deny"}


@pytest.fixture
def ruled(new_daemon):
    """Starts a daemon with these rules."""

    def start(rules, **config):
        daemon = new_daemon()
        daemon.config.update(rules=rules, **config)
        return daemon.start()

    return start


def results(model, stream):
    """What the model was told of its calls, and whether as errors, once the run is over."""
    stream.text()
    return model.requests[-1].tool_results


def test_a_denied_call_is_told_and_the_others_of_the_answer_run(ruled, model):
    daemon = ruled([PUSH, {"tool": "write", "path": "secret/**", "do": "deny"}])
    model.script(
        [
            ToolCall("bash", {"command": "touch one && echo ran"}),
            ToolCall("bash", {"command": "touch two; git push origin"}),
            ToolCall("write", {"path": "secret/x/y", "content": "no"}),
            ToolCall("write", {"path": "open", "content": "yes"}),
        ],
        "done",
    )
    daemon.session("s", "hi", tools=["bash", "write"]).text()
    told = model.requests[-1].tool_results
    assert [error for _, error in told] == [False, True, True, False]
    assert told[0][0].strip() == "ran"
    assert told[1][0].startswith('denied: the rule "bash git push*" does not allow this call. The call was not run.')
    assert '"write secret/**"' in told[2][0]
    assert sorted(path.name for path in daemon.cwd.iterdir()) == ["one", "open"]
    # The intents on disk name only what may run, and the event says why as data.
    entries = [json.loads(line) for line in daemon.session_files()[0].read_text().splitlines()]
    intents = [entry["data"]["toolName"] for entry in entries if entry.get("customType") == "nats-pi-bridge.intent"]
    assert intents == ["bash", "write"]
    with Bridge(daemon.session_socket("s")) as client:
        events = client.ask("history", event="tool_execution_end")["events"]
    denied = [event["data"]["result"]["details"]["denied"] for event in events if event["data"]["isError"]]
    assert denied[0] == {
        "error": "denied", "status": 403, "by": "rule", "rule": "bash git push*",
        "reason": 'the rule "bash git push*" does not allow this call',
    }


def test_links_and_names_do_not_get_around_a_path(ruled, model):
    daemon = ruled([{"tool": "write", "path": "~/closed/**", "do": "deny"}, {"tool": "read", "path": "~/closed/**", "do": "deny"}])
    closed = daemon.home / "closed"
    closed.mkdir()
    (closed / "file").write_text("old")
    (daemon.cwd / "link").symlink_to(closed)
    (daemon.cwd / "dangling").symlink_to(closed / "new")
    paths = ["link/x", "link/not/there/x", "dangling", "~/closed/x", "../home/closed/x", f"{closed}/../closed/x"]
    model.script([ToolCall("write", {"path": path, "content": "x"}) for path in paths] + [ToolCall("read", {"path": "link/file"})], "done")
    told = results(model, daemon.run("go"))
    assert [(text.split(":")[0], error) for text, error in told] == [("denied", True)] * (len(paths) + 1)
    assert [path.name for path in closed.iterdir()] == ["file"]


def test_what_holds_otherwise(ruled, model):
    daemon = ruled([{"tool": "bash", "match": "echo *", "do": "allow"}], otherwise="deny")
    model.script(
        [ToolCall("bash", {"command": command}) for command in ("echo a && echo b", "echo a > f", "echo $(touch f)", "touch f")]
        + [ToolCall("read", {"path": "f"})],
        "done",
    )
    told = results(model, daemon.run("go"))
    assert [error for _, error in told] == [False, True, True, True, True]
    assert "what holds where no rule matches does not allow this call" in told[3][0]
    assert not (daemon.cwd / "f").exists()


def test_a_request_narrows_and_that_survives_a_restart(ruled, model):
    daemon = ruled([PUSH])
    narrowing = [{"tool": "bash", "match": "make*", "do": "deny"}, {"tool": "read", "path": "hidden/*", "do": "deny"}]
    calls = [ToolCall("bash", {"command": command}) for command in ("make", "git push", "echo ok")]
    calls.append(ToolCall("read", {"path": "hidden/x"}))
    model.script(calls, "done")
    expected = [True, True, False, True]
    daemon.session("s", "hi", rules=narrowing).text()
    assert [error for _, error in model.requests[-1].tool_results] == expected
    daemon.signal()
    assert daemon.wait_exit() == 0
    daemon.start()
    model.script(calls, "done")
    assert [error for _, error in results(model, daemon.prompt("s", "again"))][-4:] == expected
    # A run over the socket, which has rules of its own.
    with Bridge(daemon.socket) as client:
        model.script(calls, "done")
        client.exchange("run", id=7, body="go", cwd=str(daemon.cwd), rules=narrowing[:1], stream=True)
        client.stream(7)
    told = [error for _, error in model.requests[-1].tool_results]
    assert told == [True, True, False, True] and "ENOENT" not in model.requests[-1].tool_results[0][0]


def test_a_request_can_only_narrow(ruled):
    daemon = ruled([PUSH])
    base = {"sessionMode": "session", "sessionId": "s", "body": "x", "cwd": str(daemon.cwd)}
    for rules, words in [
        ([{"tool": "bash", "do": "allow"}], "may only add rules that ask or deny"),
        ([{"tool": "nope", "do": "deny"}], "rule 1 (nope): there is no tool"),
        ([{"tool": "bash", "match": "a*", "do": "deny", "examples": {"match": ["b"]}}], "rule 1 (bash a*): it does not match its example"),
        ({"tool": "bash"}, "rules must be a list"),
    ]:
        refusal = daemon.refusal({**base, "rules": rules})
        assert (refusal.error, refusal.code) == ("invalid_request", 400)
        assert words in refusal.document["message"]
    assert daemon.session_ids() == []


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"rules": [PUSH, {"tool": "bash", "match": "rm*", "do": "ask", "examples": {"match": ["ls"]}}]}, ["rule 2 (bash rm*)", "'ls'"]),
        ({"rules": [{"tool": "bash", "match": "rm*", "do": "ask", "examples": {"not": ["ls | xargs rm"]}}]}, ["rule 1 (bash rm*)", "matches its example"]),
        ({"rules": [{"tool": "bash", "do": "maybe"}]}, ["rule 1 (bash)", "allow, ask or deny"]),
        ({"rules": {"tool": "bash"}}, ["rules", "wrong type"]),
        ({"rules": ["bash"]}, ["rules", "wrong type"]),
        ({"otherwise": "perhaps"}, ["otherwise", "allow, ask or deny"]),
        ({"unattended": "soon"}, ["unattended", "number of seconds"]),
    ],
    ids=lambda value: json.dumps(value)[:40] if isinstance(value, dict) else "",
)
def test_wrong_rules_end_the_start(new_daemon, config, words):
    daemon = new_daemon()
    daemon.config.update(config)
    done = daemon.run_to_end()
    assert done.returncode == 78
    for word in words:
        assert word.replace("'", '"') in done.stderr, done.stderr
