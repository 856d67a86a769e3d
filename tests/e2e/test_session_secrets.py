"""Variables and secrets of one session: only its tools get them, and what they print of a secret goes nowhere."""

import base64
import json
import os
import urllib.parse

import pytest

from support.bridge import Bridge
from support.model_script import ToolCall
from support.waiting import eventually

pytestmark = pytest.mark.any_server

CANARY = "c4n4ry/+ v\u00e4lue"
FORMS = {
    "literal": CANARY,
    "base64": base64.b64encode(CANARY.encode()).decode(),
    "base64 of more": base64.b64encode(f"user:{CANARY}\n".encode()).decode(),
    "base64 for URLs": base64.urlsafe_b64encode(f"a{CANARY}".encode()).decode(),
    "URL": urllib.parse.quote(CANARY),
    "URL, all of it": urllib.parse.quote(CANARY, safe=""),
    "form": urllib.parse.quote_plus(CANARY),
    "JSON": json.dumps(CANARY),
}
PRINT = "printf '%s' \"$CANARY\"; printf '%s' \"$CANARY\" | base64; printf 'user:%s' \"$CANARY\" | base64 -w0"


@pytest.fixture(params=["off", "workspace"])
def daemon(new_daemon, model, request):
    daemon = new_daemon()
    daemon.environment["OF_THE_HOST"] = CANARY
    daemon.config |= {"sandbox": request.param, "secrets": {"CANARY": "$OF_THE_HOST", "OTHER": "!echo other-s3cret", "SHORT": "abc", "GONE": "$NOT_SET"}}
    daemon.model = model
    return daemon.start()


def call(daemon, session, name="bash", **arguments):
    daemon.model.script([ToolCall(name, arguments)], "done")
    assert daemon.prompt(session, "go").text() == "done"
    return daemon.model.requests[-1].tool_results[-1][0]


def open_session(daemon, name, **fields):
    daemon.model.script("hello")
    assert daemon.session(name, "x", **fields).text() == "hello"


def everything_on_disk(*folders):
    for folder in folders:
        for root, _, files in os.walk(folder):
            for file in files:
                path = os.path.join(root, file)
                if os.path.isfile(path):
                    with open(path, "rb") as opened:
                        yield path, opened.read().decode(errors="replace")


def assert_no_canary(where, text):
    for name, form in FORMS.items():
        assert form not in text and form.rstrip("=")[:-2] not in text, f"{name} in {where}"


def test_only_sessions_that_name_them_get_them(daemon):
    open_session(daemon, "with", env={"PLAIN": "a b", "LANG": "C"}, secrets=["OTHER"])
    open_session(daemon, "without")
    show = "echo \"$PLAIN/$LANG/${#OTHER}/${CANARY-none}/${OF_THE_HOST-none}\""
    assert call(daemon, "with", command=show) == "a b/C/12/none/none\n"
    assert call(daemon, "without", command=show) == "/C.UTF-8/0/none/none\n"


def test_the_canary_is_nowhere(daemon, tmp_path):
    open_session(daemon, "s", secrets=["CANARY"])
    with Bridge(daemon.session_socket("s")) as bridge:
        bridge.ask("subscribe")
        text = call(daemon, "s", command=PRINT)
        assert text.count("[secret CANARY]") == 3, text
        # The files are the tools' own: what they hold is only kept out of what is told of them.
        assert call(daemon, "s", command=f"{{ {PRINT}; }} > kept; echo ok") == "ok\n"
        for name, arguments in {"read": {"path": "kept"}, "grep": {"pattern": ".", "path": "kept"},
                                "edit": {"path": "kept", "edits": [{"oldText": "nothing", "newText": "x"}]}}.items():
            assert_no_canary(name, call(daemon, "s", name, **arguments))
        call(daemon, "s", command="echo \"$CANARY\"; sleep 0.3; printf '%s' \"${CANARY%??}\"; sleep 0.3; printf '%s' \"${CANARY#\"${CANARY%??}\"}\"; sleep 0.3")
        assert any(record.get("event") == "tool_execution_update" for record in bridge.seen + [bridge.ask("ping")])
        history = json.dumps(bridge.ask("history"), ensure_ascii=False)
        assert "[secret CANARY]" in history
        assert_no_canary("history", history)
        assert_no_canary("events", json.dumps(bridge.seen, ensure_ascii=False))
    (daemon.cwd / "kept").unlink()
    for request in daemon.model.requests:
        assert_no_canary("a request to the model", json.dumps(request.body, ensure_ascii=False))
    assert_no_canary("inspect", json.dumps(daemon.inspect("s"), ensure_ascii=False))
    assert_no_canary("list", json.dumps(daemon.list(), ensure_ascii=False))
    assert_no_canary("the log", daemon.log_text())
    for path, content in everything_on_disk(daemon.home, daemon.cwd):
        assert_no_canary(path, content)


def test_they_survive_a_restart(daemon):
    open_session(daemon, "s", env={"PLAIN": "kept"}, secrets=["CANARY"])
    daemon.signal()
    daemon.wait_exit()
    saved = "".join(text for _, text in everything_on_disk(daemon.state_dir))
    assert "CANARY" in saved and CANARY not in json.dumps(saved, ensure_ascii=False)
    daemon.start()
    assert call(daemon, "s", command="echo $PLAIN ${#CANARY} $CANARY") == f"kept {len(CANARY)} [secret CANARY]\n"


@pytest.mark.parametrize("name", ["SHORT", "GONE"])
def test_a_secret_that_cannot_be_had(daemon, name):
    open_session(daemon, "s", secrets=[name])
    text = call(daemon, "s", command="echo ran")
    assert text.startswith(f"The tool was not run: the session's secret {name} cannot be had: ")


@pytest.mark.parametrize("socket", [False, True])
@pytest.mark.parametrize(("fields", "word"), [
    ({"env": ["A"]}, "object"), ({"env": {"A B": "x"}}, "no name"), ({"env": {"A": 1}}, "must be a string"),
    ({"secrets": ["NOBODYS"]}, "no secret"), ({"secrets": "CANARY"}, "list of names"),
])
def test_what_is_wrong_is_refused(daemon, fields, word, socket):
    request = {"sessionMode": "session", "sessionId": "s", "body": "x", "cwd": str(daemon.cwd), **fields}
    if socket:
        with Bridge(daemon.socket) as bridge:
            response = bridge.exchange("session", **request)
        assert response["success"] is False and word in response["error"], response
    else:
        refused = daemon.refusal(request).document
        assert refused["error"] == "invalid_request" and word in json.dumps(refused)


def test_sessions_over_the_socket(daemon):
    daemon.model.script("hello")
    with Bridge(daemon.socket) as bridge:
        bridge.ask("session", sessionId="s", body="x", cwd=str(daemon.cwd), env={"PLAIN": "x"}, secrets=["OTHER"])
        eventually(lambda: daemon.inspect("s")["state"] == "idle" and daemon.inspect("s")["prompts"], "it has answered")
    assert call(daemon, "s", command="echo $PLAIN ${#OTHER} $OTHER") == "x 12 [secret OTHER]\n"


@pytest.mark.parametrize("table", [{"A B": "x"}, {"A": 1}, {"A": None}, ["A"], "A"])
def test_a_table_that_is_wrong(new_daemon, table):
    daemon = new_daemon()
    daemon.config["secrets"] = table
    done = daemon.run_to_end("--check")
    assert done.returncode == 78 and "secrets" in done.stderr, done.stderr


def test_no_value_is_shown(new_daemon):
    daemon = new_daemon()
    daemon.config["secrets"] = {"TOKEN": "v3ry-s3cret"}
    done = daemon.run_to_end("--check")
    assert "secrets = TOKEN " in done.stdout and "v3ry-s3cret" not in done.stdout + done.stderr
