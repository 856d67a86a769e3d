"""`--replace`: a new process takes the place of the old one, and callers notice nothing."""


import json
import os
import signal
import socket

import pytest

from support.agents import prompt
from support.bridge import Bridge, open_questions
from support.bus import VOID
from support.model_script import Gate, Stall, ToolCall
from support.nats_server import free_port
from support.waiting import DEADLINE, eventually


def echo(word, log):
    return ToolCall("bash", {"command": f"echo {word} >> {log}"})


def interruptions(model):
    return [text for request in model.requests for text, _ in request.tool_results if "restarted" in text]


def replaced(daemon, old):
    daemon.wait_log("took over")
    assert old.wait(15) == 0


@pytest.mark.parametrize("what", ["session", "agent", "run"])
def test_a_turn_between_two_steps(daemon, model, what):
    """It goes on in the new process before its next tool: nothing is said twice, there is no mark, and one end."""
    gate, log = Gate(), daemon.cwd / "log"
    if what == "agent":
        model.script("ready")
        daemon.session("s", "hi").text()
    model.script(["One. ", gate, echo("one", log)], ["Two. ", echo("two", log)], "End.")
    if what == "agent":
        stream = prompt(daemon, "s", "go").ack()
        assert stream.next() == ("response", "One. ")
    else:
        stream = daemon.session("s", "go") if what == "session" else daemon.run("go")
        stream.until("One. ")
    old = daemon.begin_replacing()
    daemon.wait_log("takes over")
    gate.open()
    if what == "agent":
        assert stream.rest() == [("response", "Two. "), ("response", "End.")]
    else:
        assert stream.text() == "One. Two. End."
        assert stream.restarts == []
        daemon.assert_nothing_follows(stream)
    replaced(daemon, old)
    assert log.read_text() == "one\ntwo\n"
    assert interruptions(model) == []
    assert daemon.session_ids() == ([] if what == "run" else ["s"])
    daemon.signal()
    assert daemon.wait_exit() == 0


def test_a_turn_before_its_next_request(daemon, model):
    model.script([ToolCall("bash", {"command": "touch ran; until [ -e go ]; do sleep 0.01; done"})], "End.")
    stream = daemon.session("s", "go")
    eventually((daemon.cwd / "ran").exists, "the tool runs")
    old = daemon.begin_replacing()
    daemon.wait_log("takes over")
    (daemon.cwd / "go").touch()
    assert stream.text() == "End."
    replaced(daemon, old)
    assert interruptions(model) == [] and len(model.requests) == 2


def test_grace_is_over(new_daemon, model):
    """What has not come to a gate by then is interrupted: one mark, the whole answer, one end."""
    daemon = new_daemon().start("--grace", "0")
    model.script(["half", Stall()])
    stream = daemon.session("s", "go")
    stream.until("half")
    model.script("half and end")
    daemon.replace("--grace", "0")
    assert stream.text() == "halfhalf and end"
    assert [mark.headers[VOID] for _, mark in stream.restarts] == ["all"]
    daemon.assert_nothing_follows(stream)


def test_what_waits_waits_there(daemon, model):
    """Prompts that wait, steering, and a prompt that comes while the session leaves."""
    gate = Gate()
    model.script(["One. ", gate, ToolCall("ls", {})], "two ", "three", "four")
    stream = daemon.session("s", "go")
    stream.until("One. ")
    with Bridge(daemon.session_socket("s")) as client:
        client.ask("steer", message="left")
        client.ask("follow_up", message="and then")
    later = daemon.prompt("s", "later")
    daemon.wait_session("s", lambda facts: facts["queuedRequests"] == 1, "it waits")
    old = daemon.begin_replacing()
    daemon.wait_log("takes over")
    gate.open()
    assert (stream.text(), later.text()) == ("One. two three", "four")
    replaced(daemon, old)
    assert [text for role, text in model.requests[-1].conversation if role == "user"] == [
        "go", "left", "and then", "later",
    ]


def test_an_open_question_is_asked_there(daemon, model):
    question = {"questions": [{"question": "Go?", "options": [{"label": "yes"}, {"label": "no"}]}]}
    model.script([ToolCall("question", question)], "done")
    stream = daemon.session("s", "go")

    (before,) = eventually(lambda: open_questions(daemon, "s"), "it is asked")
    daemon.replace()
    assert eventually(lambda: open_questions(daemon, "s"), "it is asked again") == [before]
    answer = {"requestId": before["requestId"], "answers": [["yes"]]}
    assert daemon.bus.ask_json(daemon.subject("s") + ".answer", answer)["answered"]
    assert stream.text() == "done" and stream.restarts == []
    assert "yes" in model.requests[-1].tool_results[0][0]


def approve(daemon, asked):
    facts = {"requestId": asked["requestId"], "hash": asked["request"]["hash"], "allow": True}
    assert daemon.bus.ask_json(daemon.subject("s") + ".approve", facts)["allowed"] is True


def test_an_open_approval_is_asked_for_there(daemon, model):
    """Beside a call that has ended, whose result stays, and one that a rule denies."""
    daemon.config.update(unattended="wait", rules=[
        {"tool": "bash", "match": "touch*", "do": "ask"}, {"tool": "bash", "match": "false", "do": "deny"},
    ])
    daemon.replace()
    log, ran = daemon.cwd / "log", daemon.cwd / "ran"
    calls = [ToolCall("bash", {"command": f"touch {ran}"}), echo("one", log), ToolCall("bash", {"command": "false"})]
    model.script(["One. ", *calls], "End.")
    stream = daemon.session("s", "go")
    (before,) = eventually(lambda: open_questions(daemon, "s"), "it is asked for")
    daemon.replace()
    assert eventually(lambda: open_questions(daemon, "s"), "it is asked for again") == [before]
    assert not ran.exists()
    approve(daemon, before)
    assert stream.text() == "One. End." and stream.restarts == []
    assert ran.exists() and log.read_text() == "one\n"
    assert interruptions(model) == [] and [error for _, error in model.requests[-1].tool_results] == [False, False, True]


def test_a_request_beyond_a_budget_is_asked_for_there(daemon, model):
    daemon.config.update(unattended="wait", budgets={"session": {"requests": 1}}, onBudget="ask")
    daemon.replace()
    model.script("One.", "Two.")
    daemon.session("s", "hi").text()
    stream = daemon.prompt("s", "go")
    (before,) = eventually(lambda: open_questions(daemon, "s"), "it is asked for")
    daemon.replace()
    assert eventually(lambda: open_questions(daemon, "s"), "it is asked for again") == [before]
    approve(daemon, before)
    assert stream.text() == "Two." and stream.restarts == []
    assert len(model.requests) == 2


def test_a_client_on_a_socket_gets_its_answer_first(daemon, model):
    """It cannot be reached from the new process, so that its session leaves behind its prompt."""
    gate = Gate()
    model.script("ready", ["One. ", gate, ToolCall("ls", {})], "two", "three")
    daemon.session("s", "hi").text()
    with Bridge(daemon.session_socket("s")) as client:
        client.exchange("prompt", id="p", message="go", stream=True)
        client.next(lambda record: record["type"] == "chunk")
        old = daemon.begin_replacing()
        daemon.wait_log("takes over")
        later = daemon.prompt("s", "later")
        gate.open()
        text, end = client.stream("p")
        assert end["success"] is True and text.endswith("two")
        assert client.next(lambda record: record["type"] == "bridge_stop")["reason"] == "replaced"
    assert later.text() == "three"
    replaced(daemon, old)


def test_sessions_in_memory_end_with_the_old_process(daemon, model):
    model.script("ok", ["half ", gate := Gate(), "whole"])
    daemon.session("m", "x", persist=False).text()
    stream = daemon.prompt("m", "go")
    stream.until("half ")
    old = daemon.begin_replacing()
    daemon.wait_log("takes over")
    gate.open()
    assert stream.text() == "half whole"
    replaced(daemon, old)
    assert daemon.session_ids() == []


@pytest.mark.parametrize("policy", ["hold", "end"])
def test_whatever_becomes_of_interrupted_prompts(new_daemon, model, policy):
    """To be handed over is no interruption."""
    daemon = new_daemon().start("--on-restart", policy)
    gate = Gate()
    model.script("idle", ["One. ", gate, ToolCall("ls", {})], "End.")
    daemon.session("idle", "x").text()
    stream = daemon.session("s", "go")
    stream.until("One. ")
    old = daemon.begin_replacing("--on-restart", policy)
    daemon.wait_log("takes over")
    gate.open()
    assert stream.text() == "One. End."
    replaced(daemon, old)
    assert sorted(daemon.session_ids()) == ["idle", "s"]


def goes_on(daemon, model, stream, gate):
    """The process that was to be replaced has everything, and works as before."""
    model.script("more")
    gate.open()
    assert stream.text() == "One. more" and stream.restarts == []
    model.script("new")
    assert daemon.session("new", "hi").text() == "new"
    assert sorted(daemon.session_ids()) == ["new", "s"]


FAILURES = {
    "an unknown flag": (["--replace", "--nonsense"], 2, "unknown argument"),
    "a bad setting": (["--replace", "--grace", "x"], 2, "--grace"),
    "no server": (["--replace", "--server", "nats://127.0.0.1:1"], 1, "nothing is taken over"),
    "no side channel": (["--replace", "--bridge-dir", "/proc/nowhere"], 1, "no side channel"),
}


@pytest.mark.parametrize("failure", sorted(FAILURES))
def test_a_new_process_that_cannot_begin_changes_nothing(daemon, model, failure):
    arguments, code, text = FAILURES[failure]
    gate = Gate()
    model.script(["One. ", gate, ToolCall("ls", {})])
    stream = daemon.session("s", "go")
    stream.until("One. ")
    done = daemon.run_to_end(*arguments, timeout=30)
    assert done.returncode == code and text in done.stderr, done.stderr
    goes_on(daemon, model, stream, gate)


def test_there_is_nothing_to_replace(new_daemon, model):
    daemon = new_daemon().start("--replace")
    model.script("ok")
    assert daemon.session("s", "x").text() == "ok"


def test_again_and_again(daemon, model):
    """Each new process can be replaced as well, and a session that nobody uses is there all the time."""
    model.script("one")
    daemon.session("s", "x").text()
    for number in range(4):
        daemon.replace()
        model.script(f"answer {number}")
        assert daemon.prompt("s", "y").text() == f"answer {number}"
    assert daemon.inspect("s")["messages"] == 10


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_new_process_ends_before_it_has_everything(daemon, model, number):
    """The old one takes back what had left, and goes on with all of it."""
    gate = Gate()
    model.script("idle", ["One. ", gate, ToolCall("ls", {})])
    daemon.session("idle", "x").text()
    stream = daemon.session("s", "go")
    stream.until("One. ")
    old = daemon.begin_replacing()
    daemon.wait_log("takes over")
    # The idle session has left.
    eventually(lambda: daemon.session_socket("idle").exists(), "the new process has a session")
    daemon.signal(number)
    daemon.wait_exit()
    daemon.process = old
    daemon.wait_log("ended before it had taken over")
    model.script("more", "there")
    gate.open()
    assert stream.text() == "One. more"
    assert daemon.prompt("idle", "y").text() == "there"
    assert sorted(daemon.session_ids()) == ["idle", "s"]
    # And it can be tried again.
    daemon.replace()
    assert sorted(daemon.session_ids()) == ["idle", "s"]


def test_the_old_process_ends_in_the_middle(daemon, model):
    """The new one has what had left, and takes up the rest as after a crash."""
    model.script("idle", ["half", Stall()])
    daemon.session("idle", "x").text()
    stream = daemon.session("s", "go")
    stream.until("half")
    old = daemon.begin_replacing()
    daemon.wait_log("takes over")
    model.script("half and end")
    old.kill()
    daemon.wait_log("took over")
    assert stream.text() == "halfhalf and end"
    assert sorted(daemon.session_ids()) == ["idle", "s"]


def test_the_broker_moves_with_it(new_daemon, own_bus, model):
    """Clients of NATS see one reconnect, and the answer that was on its way comes whole."""
    port = free_port()
    daemon = new_daemon(bus=None)
    del daemon.config["server"]
    daemon.config["listen"] = f"127.0.0.1:{port}"
    daemon.spawn()
    daemon.wait_log("intake registered")
    daemon.bus = own_bus(f"nats://127.0.0.1:{port}")
    gate, log = Gate(), daemon.cwd / "log"
    model.script(["One. ", gate, echo("one", log)], "End.")
    stream = daemon.session("s", "go")
    stream.until("One. ")
    old = daemon.begin_replacing()
    daemon.wait_log("takes over")
    gate.open()
    replaced(daemon, old)
    assert stream.text() == "One. End." and stream.restarts == []
    daemon.wait_ready()
    model.script("again")
    assert daemon.prompt("s", "more").text() == "again"
    assert log.read_text() == "one\n"


def test_an_abort_at_the_gate_counts(daemon, model):
    """While a session leaves it still does what it is told."""
    gate = Gate()
    model.script(["One. ", gate, ToolCall("ls", {})], "never")
    stream = daemon.session("s", "go")
    stream.until("One. ")
    old = daemon.begin_replacing()
    daemon.wait_log("takes over")
    with Bridge(daemon.session_socket("s", old.pid)) as client:
        client.ask("abort")
    assert stream.failure().word == "aborted"
    gate.open()
    replaced(daemon, old)
    assert len(model.requests) == 1 and daemon.session_ids() == ["s"]


class Newcomer:
    """Says what a new process says to the one that it replaces."""

    def __init__(self, daemon):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(DEADLINE)
        # By the number of the folder, whose name may be longer than that of a socket may be.
        folder = os.open(daemon.state_dir, os.O_PATH)
        self.socket.connect(f"/proc/self/fd/{folder}/replace.sock")
        os.close(folder)
        self.say("replace", owner=daemon.owner)
        said, locks, _, _ = socket.recv_fds(self.socket, 4096, 1)
        assert json.loads(said) == {"op": "agreed"}
        [os.close(lock) for lock in locks]
        self.lines = self.socket.makefile("r")

    def say(self, what, **fields):
        self.socket.sendall(json.dumps({"op": what, **fields}).encode() + b"\n")

    def hear(self):
        return json.loads(self.lines.readline())

    def close(self):
        self.socket.shutdown(socket.SHUT_RDWR)


def test_a_yes_that_comes_while_the_session_leaves(daemon, model):
    """The tool runs where the turn goes on, and only there."""
    daemon.config.update(unattended="wait", rules=[{"tool": "bash", "match": "echo*", "do": "ask"}])
    daemon.replace()
    log = daemon.cwd / "log"
    model.script(["half", Stall()])
    daemon.session("busy", "x").until("half")
    model.script(["One. ", echo("one", log)], "End.")
    stream = daemon.session("s", "go")
    (asked,) = eventually(lambda: open_questions(daemon, "s"), "it is asked for")
    newcomer = Newcomer(daemon)
    newcomer.say("ready")
    assert newcomer.hear() == {"op": "go"}
    leaving = newcomer.hear()
    assert (leaving["op"], leaving["session"]) == ("prepare", "s")
    facts = {"requestId": asked["requestId"], "hash": asked["request"]["hash"], "allow": True}
    answer = daemon.bus.request(daemon.subject("s") + ".approve", facts)
    # The fence: what came before it has come to the session as well.
    daemon.inspect("busy")
    newcomer.say("prepared", instance=leaving["instance"], ok=True)
    assert newcomer.hear() == {"op": "take", "session": "s"}
    assert json.loads(answer.message().data)["allowed"] is True
    assert not log.exists()
    newcomer.close()
    assert stream.text() == "One. End." and stream.restarts == []
    assert log.read_text() == "one\n" and interruptions(model) == []


def test_a_new_process_that_does_not_do_its_part_is_called_off(daemon, model):
    """The old one works on with everything, whether the new one ends or not, and can be replaced by another one."""
    gate = Gate()
    model.script("idle", ["One. ", gate, ToolCall("ls", {})])
    daemon.session("idle", "x").text()
    stream = daemon.session("s", "go")
    stream.until("One. ")
    newcomer = Newcomer(daemon)
    newcomer.say("ready")
    assert newcomer.hear() == {"op": "go"}
    asked = newcomer.hear()
    assert (asked["op"], asked["session"]) == ("prepare", "idle")
    newcomer.say("prepared", instance=asked["instance"], ok=False)
    assert newcomer.hear() == {"op": "off"}
    daemon.wait_ready()
    model.script("more", "there", "new")
    gate.open()
    assert stream.text() == "One. more" and stream.restarts == []
    assert daemon.prompt("idle", "y").text() == "there"
    assert daemon.session("new", "hi").text() == "new"
    newcomer.close()
    daemon.wait_log("ended before it had taken over")
    daemon.replace()
    assert sorted(daemon.session_ids()) == ["idle", "new", "s"]
