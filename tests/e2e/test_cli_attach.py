"""pi-bridge attach, in a terminal that only knows lines, against a fake session. With a line editor: test_attach_editor.py."""

import json
import signal
import subprocess

import pytest

from support.attached import answer, delta, fake_session, part, question, said
from support.fake_bridge import event, response

pytestmark = pytest.mark.any_server


@pytest.fixture
def session(bridge):
    return fake_session(bridge)


@pytest.fixture
def attached(cli, session):
    """Attaches once the session is as the test wants it."""

    def attach(*arguments, **environment):
        terminal = cli.terminal("attach", *arguments, **{"TERM": "dumb", **environment})
        terminal.expect(r"-- session demo in /w, demo-model, (idle|busy)")
        return terminal

    return attach


def test_a_run_is_shown_as_it_goes(session, attached):
    terminal = attached()
    terminal.expect("> $")
    terminal.type("what is here?")
    prompt = session.wait_request("prompt")
    assert prompt.pop("id") and prompt == {"type": "prompt", "message": "what is here?"}
    session.push(event("agent_start"), said("user", "what is here?"), event("message_start"), delta("Let me "))
    terminal.expect("Let me $")
    session.push(delta("see."), answer("Let me see."))
    terminal.expect("see.$")
    session.push(event("tool_execution_start", toolCallId="t", toolName="bash", args={"command": "ls -l"}))
    session.push(event("tool_execution_end", toolCallId="t", toolName="bash", isError=False, durationMs=1500))
    terminal.expect(r"\[bash\] ls -l -> ok \(1\.5 s\)$")
    session.push(delta("A file."), answer("A file."), event("agent_end", messages=[]))
    terminal.expect("A file.$")
    terminal.expect(r"-- 240 in, 60 out, \$0\.0084 \(since attaching: 240 in, 60 out, \$0\.0084\)")
    terminal.expect("> $")
    # The own message is not shown a second time.
    assert terminal.text.count("what is here?") == 1
    terminal.ctrl_d()
    assert terminal.wait_exit() == 0


def test_what_others_do_is_shown(session, attached):
    terminal = attached()
    session.push(event("agent_start"), said("user", "from somewhere else"), delta("ok"), answer("ok"), event("agent_end"))
    terminal.expect("> from somewhere else")
    terminal.expect("^ok$")
    session.push(event("message_update", type="thinking_delta", delta="hm"), event("auto_retry_start", error="429", delayMs=1000))
    terminal.expect("thinking.*hm")
    terminal.expect("! 429; trying again in 1.0 s")
    terminal.type("/quit")
    assert terminal.wait_exit() == 0


def test_steering_and_following_up(session, attached):
    session.state["isIdle"] = False
    session.on("prompt", lambda request: {"deliveredAs": "steer", "idleBeforeSend": False})
    session.on("follow_up", lambda request: {"deliveredAs": "followUp", "idleBeforeSend": False})
    terminal = attached()
    terminal.type("look at the tests")
    assert session.wait_request("prompt")["message"] == "look at the tests"
    terminal.expect("-- it will read that at its next step")
    terminal.type("/follow then commit")
    assert session.wait_request("follow_up")["message"] == "then commit"
    terminal.expect("-- it will read that when it is done")
    terminal.type("/follow")
    terminal.expect("! /follow needs a text")
    terminal.type("/skill:review now")
    assert session.wait_request("prompt", 2)["message"] == "/skill:review now"
    terminal.type("/abort")
    session.wait_request("abort")
    session.on("steer", lambda request: [response(request, error="no model is set")])
    terminal.type("/steer left")
    terminal.expect("! no model is set")
    terminal.type("/help")
    terminal.expect("/follow TEXT")


def test_ctrl_c_aborts_and_twice_leaves(session, attached):
    session.state["isIdle"] = False
    terminal = attached()
    terminal.ctrl_c()
    session.wait_request("abort")
    terminal.expect("-- aborting; Ctrl-C again leaves")
    terminal.ctrl_c()
    assert terminal.wait_exit() == 0
    assert [r["type"] for r in session.requests].count("abort") == 1


def test_ctrl_c_leaves_an_idle_session(session, attached):
    terminal = attached()
    terminal.expect("> $")
    terminal.ctrl_c()
    assert terminal.wait_exit() == 0
    assert "abort" not in [r["type"] for r in session.requests]


def test_a_session_that_ends_is_told(session, attached):
    terminal = attached()
    session.push(event("bridge_stop", reason="stopped"), {"type": "bridge_stop", "reason": "stopped"})
    session.drop_clients()
    terminal.expect("-- the session ends: stopped")
    terminal.expect("The session has ended: stopped")
    assert terminal.wait_exit() == 1
    assert terminal.text.count("the session ends") == 1


def test_a_session_that_ends_at_its_daemons_socket_is_told(cli, session):
    session.row_path.write_text(json.dumps({**session.row, "sessionId": "s1", "daemonSocketPath": str(session.path)}))
    terminal = cli.terminal("attach")
    terminal.expect("-- session demo")
    session.push({**event("bridge_stop", reason="stopped"), "session": "s1"})
    terminal.expect("The session has ended")
    assert terminal.wait_exit() == 1


def test_the_past_comes_first_and_nothing_twice(session, attached):
    numbers = iter(range(1, 100))

    def numbered(record):
        return {**record, "seq": next(numbers)}

    session.state["isIdle"] = False
    session.past = [numbered(r) for r in (said("user", "do it\nplease"), answer("Well,\nyes"), event("message_start"), delta("so "))]
    later = [numbered(delta("far")), numbered(answer("so far"))]
    # The newest event of the past, and what came while it was asked for, arrive as events, too.
    session.on("history", lambda request: [session.past[-1], later[0], response(request, {"events": session.past})])
    session.on("questions", lambda request: [later[1], response(request, {"questions": []})])
    terminal = attached()
    terminal.expect(r"^> do it\.\.\.\nWell,\.\.\.\nso far$")
    assert "missed" not in terminal.text
    assert terminal.text.count("so ") == 1


def test_without_numbers_the_order_decides(session, attached):
    session.past = [said("user", "one")]
    session.on("history", lambda request: [said("user", "one"), response(request, {"events": session.past})])
    session.on("questions", lambda request: [said("user", "two"), response(request, {"questions": []})])
    terminal = attached()
    terminal.expect("^> one\n> two$")
    assert terminal.text.count("one") == 1


def test_questions_are_asked_in_place(session, attached):
    session.pending = [question("q1", part("Which way?", ["Left", "Right"]), part("And then?", ["Run", "Hide"], multiple=True, header="Next"))]
    session.on("answer", lambda request: [
        event("question", action="answered", requestId=request["requestId"]), response(request, {"answered": True}),
    ])
    terminal = attached()
    terminal.expect(r"\? Which way\? \(1 of 2\)\n  1\) Left\n  2\) Right\n")
    terminal.type("3")
    terminal.expect("! 3 is not a number from 1 to 2")
    terminal.type("2")
    terminal.expect(r"\? And then\? \[Next\] \(2 of 2\)")
    terminal.type("1, 2")
    request = session.wait_request("answer")
    assert request["requestId"] == "q1" and request["answers"] == [["Right"], ["Run", "Hide"]]
    # The next line is a prompt again.
    terminal.expect("> $")
    terminal.type("thanks")
    assert session.wait_request("prompt")["message"] == "thanks"
    assert "elsewhere" not in terminal.text


def test_an_own_text_is_an_answer_where_it_may_be(session, attached):
    terminal = attached()
    session.event("question", action="opened", **question("q1", part("Why?", ["No reason"])))
    terminal.expect(r"\? Why\?")
    terminal.type("because")
    assert session.wait_request("answer")["answers"] == [["because"]]
    session.event("question", action="opened", **question("q2", part("Sure?", ["Yes", "No"], allowCustom=False)))
    terminal.expect(r"\? Sure\?")
    terminal.type("perhaps")
    terminal.expect("! type a number from 1 to 2")
    terminal.type("/steer you decide")
    assert session.wait_request("steer")["message"] == "you decide"
    terminal.type("/reject")
    assert session.wait_request("reject")["requestId"] == "q2"


def test_a_question_that_somebody_else_answers(session, attached):
    session.pending = [question("q1", part("One?", ["A", "B"])), question("q2", part("Two?", ["C", "D"]))]
    terminal = attached()
    terminal.expect(r"\? One\?")
    session.event("question", action="answered", requestId="q1", result={"answers": [["B"]]})
    terminal.expect("-- the question was answered elsewhere: B")
    terminal.expect(r"\? Two\?")
    session.event("question", action="rejected", requestId="q2")
    terminal.expect("-- the question was rejected elsewhere")


def test_a_refused_answer_asks_again(session, attached):
    session.pending = [question("q1", part("One?", ["A", "B"]))]
    session.on("answer", lambda request: [response(request, error="that is none")])
    terminal = attached()
    terminal.expect(r"\? One\?")
    terminal.type("1")
    terminal.expect("! that is none")
    terminal.expect(r"\? One\?")


def test_a_session_at_its_daemons_socket_is_named_in_every_request(cli, session):
    session.row_path.write_text(json.dumps({**session.row, "sessionId": "s1", "daemonSocketPath": str(session.path)}))
    terminal = cli.terminal("attach", "s1")
    terminal.expect("-- session demo")
    terminal.type("hello")
    session.wait_request("prompt")
    assert {request["session"] for request in session.requests} == {"s1"}


def test_a_terminal_is_not_commanded(session, attached):
    terminal = attached()
    session.push(event("agent_start"), delta("\x1b]0;title\x07\x1b[2Jtext"))
    terminal.expect(r"\?]0;title\?\?\[2Jtext")


@pytest.mark.parametrize(("arguments", "environment"), [([], {"TERM": "dumb"}), (["--plain"], {"TERM": "xterm"})])
def test_a_plain_terminal_gets_plain_text(session, attached, arguments, environment):
    terminal = attached(*arguments, **environment)
    session.push(event("agent_start"), delta("hm", "thinking_delta"), answer("x"), event("agent_end"))
    terminal.expect("-- 120 in")
    assert "\x1b" not in terminal.text


def test_a_line_that_the_terminal_cuts_is_not_sent(session, attached):
    terminal = attached()
    terminal.type("x" * 6000)
    terminal.expect("! the terminal cuts lines that long; it is not sent")
    terminal.type("x" * 4000)
    assert session.wait_request("prompt")["message"] == "x" * 4000


@pytest.mark.parametrize("text", ["hello\n", "hello"])
def test_what_is_piped_in_is_answered_before_it_ends(cli, session, text):
    """Not in a terminal: output is plain, and the end of the input ends it once everything is answered."""

    def prompt(request):
        session.state["isIdle"] = False
        return {"deliveredAs": "now", "idleBeforeSend": True}

    session.on("prompt", prompt)
    process = cli.start("attach", stdin=subprocess.PIPE)
    process.stdin.write(text.encode())
    process.stdin.close()
    assert session.wait_request("prompt")["message"] == "hello"
    session.push(event("agent_start"), delta("A late "), answer("A late answer"))
    session.state["isIdle"] = True
    session.push(event("agent_end", messages=[]))
    assert process.wait(20) == 0
    header, text, *_ = process.stdout.read().decode().splitlines()
    assert (header, text) == ("-- session demo in /w, demo-model, idle (/help)", "A late answer")
    assert process.stderr.read() == b""


def test_pasted_lines_are_one_message_even_where_no_terminal_says_so(session, attached):
    terminal = attached()
    terminal.press(b"one\ntwo\nthree\n")
    assert session.wait_request("prompt")["message"] == "one\ntwo\nthree"


def test_when_the_terminal_goes(cli, session):
    terminal = cli.terminal("attach")
    terminal.expect("-- session demo")
    terminal.close()
    # By the signal or by what it reads, whichever comes first.
    assert terminal.process.wait(20) in (0, 1, -signal.SIGHUP)


def test_a_response_that_does_not_come_is_told(session, attached):
    session.on("prompt", lambda request: [])
    terminal = attached("--timeout", "0.5")
    terminal.type("hello")
    terminal.expect("! no response in time to the message")
    terminal.type("/quit")
    assert terminal.wait_exit() == 0


def test_what_is_no_session(cli, bridge):
    bridge.hello = {"type": "hello"}
    done = cli("attach")
    assert done.returncode == 1 and "does not speak pi-session-bridge.v1" in done.stderr
    bridge.hello = {"type": "bridge_hello", "protocol": "pi-session-bridge.v1"}
    bridge.on("subscribe", lambda request: [response(request, error="several sessions")])
    done = cli("attach")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "several sessions\n")
    bridge.on("subscribe", lambda request: [])
    done = cli("attach", "--timeout", "0.3")
    assert done.returncode == 1 and "no answer in time" in done.stderr


def test_nobody_reads_any_more(cli, session):
    process = cli.start("attach", stdin=subprocess.PIPE)
    assert process.stdout.readline().startswith(b"-- session demo")
    process.stdout.close()
    assert process.wait(20) == 0 and process.stderr.read() == b""
