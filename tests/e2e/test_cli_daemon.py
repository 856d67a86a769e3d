"""Both built binaries together: pi-bridge drives sessions of a live daemon."""

import json

import pytest

from support.cli import HEADER, lines
from support.model_script import Gate, Text, ToolCall, Usage
from support.waiting import eventually


@pytest.fixture
def host(new_daemon, cli):
    """A daemon with the scripted model, whose sessions `cli` finds."""
    daemon = new_daemon()
    daemon.environment["PI_BRIDGE_DIR"] = str(cli.directory)
    daemon.start()
    eventually(lambda: rows(cli), "the daemon is registered")
    return daemon


def rows(cli):
    return json.loads(cli("list", "--json").stdout)


def registered(cli, *sessions):
    """Waits until the registry has these sessions and no others."""
    eventually(lambda: {row.get("sessionId") for row in rows(cli)} - {None} == set(sessions), f"{sessions} are registered")


def data(done):
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)["data"]


@pytest.fixture
def session(host, cli, model):
    """A session that has answered once."""
    model.script("first answer")
    assert host.session("alpha", "first question").text() == "first answer"
    registered(cli, "alpha")
    return host


def test_what_is_listed(host, cli, model):
    (row,) = rows(cli)
    assert (row["pid"], row["role"]) == (host.pid, "daemon")
    model.answer(lambda request: "x")
    for count, name in enumerate(("alpha", "beta"), 1):
        host.session(name, "x").text()
        registered(cli, *("alpha", "beta")[:count])
    table = lines(cli("list").stdout)
    assert table[0].startswith(HEADER)
    assert [line.split()[0] for line in table[1:]] == ["alpha", "beta"]
    assert cli("state").returncode == 1
    assert data(cli("state", "beta"))["sessionId"] == "beta"
    assert data(cli("state", "--session", "alpha"))["isIdle"] is True


def test_a_pipeline_ends_with_its_last_part(session, cli):
    done = cli.shell("set -o pipefail; pi-bridge stream | head -1; echo ${PIPESTATUS[*]}")
    hello, codes = lines(done.stdout)
    assert json.loads(hello)["type"] == "bridge_hello"
    assert codes == "0 0" and done.stderr == ""


def test_prompting_and_history(session, cli, model):
    model.script("second answer")
    done = cli("send", "--stream", "second question")
    assert (done.returncode, done.stdout, done.stderr) == (0, "second answer\n", "")
    assert model.requests[-1].prompts == ["first question", "second question"]
    events = data(cli("history", "--event", "message_end"))["events"]
    assert [event["data"]["message"]["role"] for event in events] == ["user", "assistant"] * 2
    assert data(cli("emit", "hello")) == {"message": "hello"}
    assert data(cli("history", "1"))["events"][0]["data"]["message"] == "hello"
    assert data(cli("send", "/bridge:ping hi"))
    assert [event["data"]["text"] for event in data(cli("history", "--event", "bridge_pong"))["events"]] == ["hi"]
    assert "bridge:ping" in [command["name"] for command in data(cli("commands"))["commands"]]
    refused = cli("send", "/nonsense")
    assert refused.returncode == 1 and json.loads(refused.stdout)["success"] is False


def test_steering_and_aborting(session, cli, model):
    gate = Gate()
    model.script([ToolCall("bash", {"command": "echo one"}), gate], "steered")
    assert data(cli("send", "go"))["deliveredAs"] == "now"
    gate.wait_reached()
    assert data(cli("state"))["isIdle"] is False
    assert data(cli("steer", "the", "other", "way"))["deliveredAs"] == "steer"
    gate.open()
    assert "the other way" in model.wait_for(3).prompts
    eventually(lambda: data(cli("state"))["isIdle"], "the run is over")
    stuck = Gate()
    model.script([Text("half"), stuck])
    cli("send", "again")
    stuck.wait_reached()
    assert data(cli("abort"))["isIdle"] is True


def test_runs_and_sessions(host, cli, model):
    model.script("a run")
    assert cli("run", "do", "it").stdout == "a run\n"
    model.script("a session")
    assert cli("session", "beta", "hello").stdout == "a session\n"
    registered(cli, "beta")
    done = cli("session", "beta", "again")
    assert done.returncode == 1 and "session_exists" in done.stderr
    assert [row["sessionId"] for row in data(cli("sessions"))["sessions"]] == ["beta"]
    assert data(cli("inspect", "beta"))["sessionId"] == "beta"
    assert data(cli("stop", "beta"))["sessionId"] == "beta"
    registered(cli)
    assert cli("stop", "beta").returncode == 1
    model.script([Text("half"), gate := Gate()])
    run = data(cli("run", "wait", "--detach"))["sessionId"]
    gate.wait_reached()
    # A run has no row; it is reached by its id.
    assert run not in [row.get("sessionId") for row in rows(cli)]
    assert data(cli("state", run))["isIdle"] is False
    gate.open()


def test_ctrl_c_ends_a_run_and_its_programs(host, cli):
    """Unless it was told not to wait for it."""
    body = '@tool bash {"command":"touch begun; sleep %s; touch late"}'
    run = ["run", "--model", "offline/demo"]
    begun, late = cli.cwd / "begun", cli.cwd / "late"
    terminal = cli.terminal(*run, body % 30)
    eventually(begun.exists, "the program runs")
    terminal.ctrl_c()
    assert terminal.wait_exit() == 130
    eventually(lambda: host.list()["runs"] == [], "the run is over")
    begun.unlink()
    assert not late.exists()
    assert cli(*run, "--detach", body % 1).returncode == 0
    eventually(late.exists, "a detached run works on")
    assert begun.exists()


def test_the_stream_ends_with_the_session(session, cli, model):
    model.answer(lambda request: "x")
    session.session("beta", "x").text()
    registered(cli, "alpha", "beta")
    process = cli.start("stream", "beta")
    assert json.loads(process.stdout.readline())["state"]["sessionId"] == "beta"
    assert json.loads(process.stdout.readline())["success"] is True
    assert cli("shutdown", "beta").returncode == 0
    records = [json.loads(line) for line in process.stdout]
    assert records[-1]["type"] == "bridge_stop"
    assert process.wait(20) == 1 and process.stderr.read().startswith(b"bridge-stream-closed\n")
    registered(cli, "alpha")


def test_shutdown_of_the_daemon(session, cli):
    assert cli("shutdown").returncode == 0
    assert session.wait_exit() == 0
    assert cli("list").stdout == "No active pi session bridges found.\n"


def test_attach_shows_a_run_and_steers_it(session, cli, model):
    terminal = cli.terminal("attach", TERM="dumb")
    terminal.expect(r"-- session alpha in .*, scripted/one, sandbox \S+, idle")
    terminal.expect("^> first question\nfirst answer$")
    gate = Gate()
    model.script(
        [Text("I will look."), ToolCall("bash", {"command": "echo here"}), Usage(input=100, output=10), gate],
        [Text("Done."), Usage(input=200, output=20)],
    )
    terminal.type("look around")
    terminal.expect("I will look")
    gate.wait_reached()
    terminal.type("and be quick")
    terminal.expect("-- it will read that at its next step")
    gate.open()
    terminal.expect(r"\[bash\] echo here -> ok \(\d+\.\d s\)")
    terminal.expect("^Done.$")
    terminal.expect(r"-- 300 in, 30 out, \$\d+\.\d{4} \(session: \d+ tokens, \$\d+\.\d{4}\)")
    assert model.requests[-1].prompts[-1] == "and be quick"
    # Another controller's prompt.
    model.script("Hello to you.")
    session.prompt("alpha", "from elsewhere").text()
    terminal.expect("^> from elsewhere\nHello to you.$")
    terminal.type("/quit")
    assert terminal.wait_exit() == 0


def test_ctrl_c_in_attach_aborts_the_run(session, cli, model):
    terminal = cli.terminal("attach", "alpha", TERM="dumb")
    terminal.expect("-- session alpha")
    gate = Gate()
    model.script([Text("half"), gate])
    terminal.type("go")
    terminal.expect("half")
    terminal.ctrl_c()
    terminal.expect("-- aborting")
    terminal.expect("-- aborted")
    eventually(lambda: data(cli("state"))["isIdle"], "the session is idle")
    terminal.ctrl_c()
    assert terminal.wait_exit() == 0


@pytest.mark.parametrize("others", [0, 1])
def test_attach_says_that_the_session_ended(session, cli, model, others):
    """Also while the daemon's only session shares the daemon's socket."""
    model.answer(lambda request: "x")
    if others:
        session.session("beta", "x").text()
        registered(cli, "alpha", "beta")
    terminal = cli.terminal("attach", "alpha", TERM="dumb")
    terminal.expect("-- session alpha")
    assert cli("stop", "alpha").returncode == 0
    terminal.expect("The session has ended")
    assert terminal.wait_exit() == 1


def test_a_question_of_the_model_is_answered_in_attach(session, cli, model):
    terminal = cli.terminal("attach", TERM="dumb")
    terminal.expect("-- session alpha")
    options = [{"label": "Left", "description": "the short way"}, {"label": "Right"}]
    call = ToolCall("question", {"questions": [{"header": "Way", "question": "Which way?", "options": options}]})
    model.script([call], "Left it is.")
    terminal.type("ask me")
    terminal.expect(r"\? Which way\? \[Way\]\n  1\) Left - the short way\n  2\) Right\n")
    (question,) = data(cli("questions"))["questions"]
    terminal.type("1")
    terminal.expect("Left it is.")
    assert "Left" in model.requests[-1].tool_results[0][0]
    late = cli("answer", "--request-id", question["requestId"], '[["Right"]]')
    assert late.returncode == 1 and "No pending question request" in json.loads(late.stdout)["error"]


def test_a_killed_daemon_is_not_listed(session, cli):
    session.process.kill()
    session.process.wait(20)
    assert rows(cli) == []
    assert cli("list", "--all").stdout.count(str(session.pid)) >= 1
