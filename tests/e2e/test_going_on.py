"""A turn that a restart interrupted goes on by itself, and its caller gets the whole answer."""

import json
import signal

import pytest

from support import proc
from support.agents import prompt
from support.bridge import Bridge, open_questions
from support.bus import RESTART, VOID, NoResponders
from support.model_script import Failure, Gate, Stall, Text, ToolCall, Usage
from support.session_files import kill, only_entries, roles
from support.waiting import eventually

LINE = "[The host was restarted. The answer begins anew: attempt {}]"


def marked(stream, before, attempt=2):
    """The stream has one mark, behind this text."""
    ((text, mark),) = stream.restarts
    assert text == before
    assert (mark.headers[RESTART], mark.headers[VOID]) == (str(attempt), "all")
    assert mark.data.decode() == LINE.format(attempt)


def running_tool(daemon, more=""):
    """A command that says when it runs, and stays."""
    marker = daemon.cwd / "ran"
    command = f"echo $$ >> {marker}; {more} sleep 600"

    def begun():
        eventually(lambda: marker.exists() and marker.read_text(), "the tool has begun")
        return marker

    return ToolCall("bash", {"command": command}), begun


def test_in_the_models_stream(daemon, model):
    gate = Gate()
    model.script(["w0 w1 ", gate, "never"])
    stream = daemon.session("s", "go")
    stream.until("w0 w1 ")
    kill(daemon)
    gate.open()
    model.script("w0 w1 w2 END")
    daemon.start()
    assert stream.text() == "w0 w1 w0 w1 w2 END"
    marked(stream, "w0 w1 ")
    assert model.requests[-1].conversation == [("user", "go")]
    assert roles(daemon) == ["user", "assistant"]


def test_in_a_tool(daemon, model):
    """What was finished keeps its result, nothing runs twice, and the model is told of what is unknown."""
    log = daemon.cwd / "log"
    tool, begun = running_tool(daemon)
    one = ToolCall("bash", {"command": f"echo one >> {log}"})
    model.script(["First. ", one], ["Second. ", tool])
    stream = daemon.session("s", "go")
    marker = begun()
    shell = int(marker.read_text())
    kill(daemon)
    three = ToolCall("bash", {"command": f"echo three >> {log}"})
    model.script([three], "finished")
    daemon.start()
    assert stream.text() == "First. Second. First. Second. finished"
    marked(stream, "First. Second. ")
    daemon.assert_nothing_follows(stream)
    assert (log.read_text(), marker.read_text()) == ("one\nthree\n", f"{shell}\n")
    assert not proc.alive(shell)
    first, second, third = model.requests[-1].tool_results
    assert "interrupted" not in str(first) + str(third)
    assert "interrupted, outcome unknown" in str(second)
    assert roles(daemon) == ["user", *["assistant", "toolResult"] * 3, "assistant"]
    assert daemon.inspect("s")["lastError"] is None


def test_between_tools_of_one_message(daemon, model):
    """Of calls at the same time those that had ended keep their results; of the others the model is told once."""
    tool, begun = running_tool(daemon)
    quick = ToolCall("bash", {"command": "echo quick"}, id="quick")
    model.script([ToolCall(tool.name, tool.arguments, id="slow"), quick, ToolCall(tool.name, tool.arguments, id="slow2")])
    stream = daemon.session("s", "go")
    begun()
    eventually(lambda: any("quick\\n" in json.dumps(e) for e in only_entries(daemon) if e["type"] == "message"
                           and e["message"]["role"] == "toolResult"), "the result is on disk")
    kill(daemon)
    model.script("done")
    daemon.start()
    assert stream.text() == "done"
    slow, quick, other = (str(result) for result in model.requests[-1].tool_results)
    assert "quick" in quick and "interrupted" not in quick
    assert "interrupted, outcome unknown" in slow and "interrupted, outcome unknown" in other
    assert "Look at what it may have done" in slow and "Look" not in other


def test_in_the_pause_before_a_retry(daemon, model):
    daemon.write_agent_file("settings.json", {"retry": {"baseDelayMs": 60000}})
    model.script(Failure(529, "overloaded"))
    stream = daemon.session("s", "go")
    eventually(lambda: "assistant" in (roles(daemon) if daemon.session_files() else []), "the failure is recorded")
    kill(daemon)
    model.script("fine")
    daemon.start()
    assert stream.text() == "fine"


def test_in_a_compaction(daemon, model):
    daemon.write_agent_file("settings.json", {"compaction": {"keepRecentTokens": 50}})
    model.script("first", Failure(400, "prompt is too long: 9 tokens > 8 maximum"), [Stall()])
    daemon.session("s", "hi").text()
    stream = daemon.prompt("s", "word " * 60)
    eventually(lambda: len(model.requests) == 3, "a summary is asked for")
    kill(daemon)
    model.script("whole")
    daemon.start()
    assert stream.text() == "whole"


def test_the_answer_was_complete(daemon, model):
    """It is not asked for again; the caller gets it once more, with a mark, because nobody knows what arrived."""
    gate = Gate()
    daemon.write_agent_file("settings.json", {"compaction": {"keepRecentTokens": 50}})
    # A summary is made behind the answer.
    model.script("first", ["all of it", ToolCall("ls", {})], [Text("the end"), Usage(input=190_000, output=10)], [gate])
    daemon.session("s", "hi").text()
    stream = daemon.prompt("s", "word " * 60)
    stream.until("the end")
    gate.wait_reached()
    eventually(lambda: roles(daemon)[-2:] == ["toolResult", "assistant"], "the answer is on disk")
    kill(daemon)
    gate.open()
    model.answer(lambda request: "a summary")
    daemon.start()
    assert stream.text() == "all of itthe endall of itthe end"
    marked(stream, "all of itthe end")


def test_twice_in_one_turn(daemon, model):
    log = daemon.cwd / "log"
    model.script([ToolCall("bash", {"command": f"echo one >> {log}"})], ["half", Stall()])
    stream = daemon.session("s", "go")
    stream.until("half")
    kill(daemon)
    model.script(["next", Stall()])
    daemon.start()
    stream.until("next")
    kill(daemon)
    model.script("done")
    daemon.start()
    assert stream.text() == "halfnextdone"
    assert [(text, mark.headers[RESTART]) for text, mark in stream.restarts] == [("half", "2"), ("halfnext", "3")]
    assert log.read_text() == "one\n"


def test_three_times_without_progress_is_enough(daemon, model):
    """A turn that kills the host does not do so for ever; a tool that comes to its end is progress."""
    stream = daemon.session("s", "go", events=True)
    model.script(["a", Stall()])
    stream.until("a")
    kill(daemon)
    model.script([ToolCall("ls", {})], ["b", Stall()])
    daemon.start()
    stream.until("b")
    # What is said behind a tool may be heard a moment before its result is on disk.
    eventually(lambda: "toolResult" in roles(daemon), "the tool's result is on disk")
    for text in "cd":
        kill(daemon)
        model.script([text, Stall()])
        daemon.start()
        stream.until(text)
    asked = len(model.requests)
    events = daemon.bus.listen(f"agents.ev.{daemon.owner}.s.turn_interrupted")
    kill(daemon)
    daemon.start()
    failure = stream.failure()
    assert failure.word == "interrupted" and "3 times in a row" in failure.text
    assert json.loads(events.message().data)["data"] == {
        "type": "turn_interrupted", "action": "hold", "interruptions": 3,
    }
    assert len(model.requests) == asked
    model.script("here")
    assert daemon.prompt("s", "still there?").text() == "here"


def test_a_prompt_that_kills_the_host_before_its_first_word(daemon, model):
    """A compaction comes before the prompt's own words are in the conversation."""
    daemon.write_agent_file("settings.json", {"compaction": {"keepRecentTokens": 50}})
    # The summary behind the first answer fails, so that the second prompt has to begin with it.
    model.script("zero", [Text("first"), Usage(input=190_000, output=10)], Failure(400, "no"))
    daemon.session("s", "hi").text()
    daemon.prompt("s", "word " * 60).text()
    daemon.wait_session("s", lambda facts: not facts["activeRequest"], "it is idle")
    model.answer(lambda request: [Stall()])
    stream = daemon.prompt("s", "go")
    for count in range(3):
        eventually(lambda count=count: len(model.requests) == 4 + count, "a summary is asked for")
        kill(daemon)
        daemon.start()
    assert stream.failure().word == "interrupted"
    assert len(model.requests) == 6


def test_steering_and_follow_ups_are_taken_in(daemon, model):
    tool, begun = running_tool(daemon)
    model.script([tool])
    stream = daemon.session("s", "go")
    begun()
    with Bridge(daemon.session_socket("s")) as client:
        client.ask("steer", message="left")
        client.ask("follow_up", message="and then")
    later = daemon.prompt("s", "later")
    daemon.wait_session("s", lambda facts: facts["queuedRequests"] == 1, "it waits")
    kill(daemon)
    model.script("one ", "two", "three")
    daemon.start()
    assert (stream.text(), later.text()) == ("one two", "three")
    users = [[text for role, text in request.conversation if role == "user"] for request in model.requests[-3:]]
    assert users == [["go", "left"], ["go", "left", "and then"], ["go", "left", "and then", "later"]]


def test_what_an_abort_left_behind_still_waits(daemon, model):
    tool, begun = running_tool(daemon)
    model.script([tool])
    daemon.session("s", "go")
    begun()
    with Bridge(daemon.session_socket("s")) as client:
        client.ask("steer", message="left")
        client.ask("abort")
    kill(daemon)
    daemon.start()
    assert daemon.inspect("s")["pendingMessages"] == 1
    model.script("both")
    assert daemon.prompt("s", "again").text() == "both"
    assert [text for role, text in model.requests[-1].conversation if role == "user"][-2:] == ["again", "left"]


def test_nobody_waits_any_more(daemon, model):
    model.script(["half", Stall()])
    stream = daemon.session("s", "go")
    stream.until("half")
    stream.leave()
    kill(daemon)
    model.script("done")
    daemon.start()
    daemon.wait_session("s", lambda facts: facts["messages"] == 2 and not facts["activeRequest"], "it is answered")


def test_the_agent_wire_and_the_events_have_the_mark(daemon, model):
    # What comes before a tool that runs is on disk; before a call that fails at once it need not be yet.
    model.script("ready", ["half ", ToolCall("bash", {"command": "true"})], ["more", Stall()])
    daemon.session("s", "hi", events=True).text()
    wire = prompt(daemon, "s", "go").ack()
    eventually(lambda: len(model.requests) == 3, "the last request")
    assert [wire.next(), wire.next()] == [("response", "half "), ("response", "more")]
    kill(daemon)
    events = daemon.bus.listen(f"agents.ev.{daemon.owner}.s.*")
    model.script("done")
    daemon.start()
    mark = {"attempt": 2, "voidBytes": "all", "reason": "host_restarted"}
    kind, data = wire.next()
    assert kind == "status" and data.startswith("restart:") and json.loads(data.removeprefix("restart:")) == mark
    assert "".join(data for kind, data in wire.rest() if kind == "response") == "half done"
    names = []
    while not names or names[-1] != "agent_settled":
        names.append(json.loads(events.message().data)["event"])
    # The server may still have had some of the process before.
    names = names[names.index("bridge_start"):]
    assert names.index("turn_interrupted") < names.index("bridge_restart") < names.index("message_end")


@pytest.mark.parametrize("keep", [False, True])
def test_a_run_goes_on(daemon, model, keep):
    log = daemon.cwd / "log"
    tool, begun = running_tool(daemon)
    model.script(["One. ", ToolCall("bash", {"command": f"echo one >> {log}"})], [tool])
    stream = daemon.run("go", keep=keep)
    begun()
    (before,) = daemon.list()["runs"]
    kill(daemon)
    gate = Gate()
    model.script([gate, "done"])
    daemon.start()
    gate.wait_reached()
    (after,) = daemon.list()["runs"]
    assert [after.get(key) for key in ("sessionId", "instanceId", "sessionFile")] == [
        before.get(key) for key in ("sessionId", "instanceId", "sessionFile")
    ]
    gate.open()
    assert stream.text() == "One. One. done"
    marked(stream, "One. ")
    assert log.read_text() == "one\n"
    eventually(lambda: daemon.list()["runs"] == [], "the run is over")
    assert len(daemon.session_files()) == keep
    assert [path.name for path in daemon.state_dir.iterdir() if path.name.startswith("run-")] == []
    kill(daemon)
    daemon.start()
    assert daemon.list()["runs"] == []


def test_a_run_leaves_nothing_on_disk(daemon, model):
    model.script("done", Failure(400, "no"), [Stall()])
    assert daemon.run("go").text() == "done"
    daemon.run("go").failure()
    stream = daemon.run("go")
    eventually(lambda: len(model.requests) == 3, "it is asked")
    (run,) = eventually(lambda: len(runs := daemon.list()["runs"]) == 1 and runs, "the others are over")
    assert "sessionFile" not in run
    daemon.stop_session(run["sessionId"])
    stream.failure()
    eventually(lambda: not [p for p in daemon.state_dir.iterdir() if p.name.startswith("run-")], "nothing is left")


def test_a_run_of_a_socket_ends_with_the_host(daemon, model):
    """Its client has seen the connection end, and a `run` ends with its only client."""
    model.answer(lambda request: ["begun", Stall()])
    with Bridge(daemon.socket) as client:
        client.exchange("run", id=1, body="x", cwd=str(daemon.cwd), stream=True)
        client.next(lambda record: record["type"] == "chunk")
        client.exchange("run", id=2, body="y", cwd=str(daemon.cwd))
        eventually(lambda: len(model.requests) == 2, "both are asked")
        kill(daemon)
    daemon.start()
    eventually(lambda: len(model.requests) == 3, "the one that nobody waits for is gone on with")
    assert model.requests[2].prompts == ["y"]
    (run,) = eventually(lambda: len(runs := daemon.list()["runs"]) == 1 and runs, "the other one is over")
    daemon.stop_session(run["sessionId"])


@pytest.mark.parametrize("where", ["configuration", "request", "spawn"])
def test_it_may_be_held(new_daemon, model, where):
    daemon = new_daemon().start(*(["--on-restart", "hold"] if where == "configuration" else []))
    tool, begun = running_tool(daemon)
    if where == "spawn":
        daemon.bus.ask_json(f"agents.spawn.pi-exec.{daemon.owner}.control",
                            {"session_id": "s", "cwd": str(daemon.cwd), "on_restart": "hold"})
        model.script([tool])
        stream = daemon.prompt("s", "go")
    else:
        model.script([tool])
        stream = daemon.session("s", "go", **({"onRestart": "hold"} if where == "request" else {}))
    begun()
    later = daemon.prompt("s", "later")
    daemon.wait_session("s", lambda facts: facts["queuedRequests"] == 1, "it waits")
    kill(daemon)
    model.script("To what waited.")
    daemon.start()
    failure = stream.failure()
    assert failure.word == "interrupted" and failure.text.endswith("worked on this prompt")
    assert later.text() == "To what waited."
    # It holds for this session over further restarts.
    model.script([Stall()])
    stream = daemon.prompt("s", "again")
    eventually(lambda: len(model.requests) == 3 and roles(daemon)[-1] == "user", "it is asked")
    kill(daemon)
    daemon.start()
    assert stream.failure().word == "interrupted"
    assert len(model.requests) == 3


def test_the_session_may_end_with_it(daemon, model):
    model.script("idle", ["half", Stall()])
    daemon.session("idle", "x", onRestart="end").text()
    stream = daemon.session("s", "go", onRestart="end")
    stream.until("half")
    later = daemon.prompt("s", "later")
    daemon.wait_session("s", lambda facts: facts["queuedRequests"] == 1, "it waits")
    kill(daemon)
    daemon.start()
    assert stream.failure().word == "interrupted"
    assert later.failure().word == "not_found"
    eventually(lambda: daemon.session_ids() == ["idle"], "it has ended")
    assert not (daemon.state_dir / "s.json").exists() and len(daemon.session_files()) == 2
    assert len(model.requests) == 2


def test_other_words_are_refused(daemon, new_daemon):
    request = {"sessionMode": "run", "body": "x", "cwd": "/", "onRestart": "later"}
    refusal = daemon.refusal(request)
    assert refusal.error == "invalid_request" and "continue, hold, end" in refusal.document["message"]
    done = new_daemon().run_to_end("--on-restart", "later", "--check")
    assert done.returncode == 2 and "--on-restart" in done.stderr


def test_nothing_was_heard(daemon, model):
    """There is no mark where the caller has nothing that could be doubled."""
    model.script("hello", [ToolCall("ls", {})], [Stall()])
    daemon.session("s", "hi").text()
    streams = [daemon.prompt("s", "go"), prompt(daemon, "s", "and you").ack()]
    eventually(lambda: len(model.requests) == 3, "it is asked")
    daemon.wait_session("s", lambda facts: facts["queuedRequests"] == 1, "one waits")
    kill(daemon)
    model.script("one", "two")
    daemon.start()
    assert (streams[0].text(), streams[0].restarts) == ("one", [])
    assert streams[1].text() == "two"


QUESTION = {"questions": [{"question": "Go?", "options": [{"label": "yes"}, {"label": "no"}]}]}


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_question_stays_open(new_daemon, model, how):
    daemon = new_daemon()
    daemon.config["grace"] = 0
    daemon.start()
    model.script([ToolCall("question", QUESTION), ToolCall("ls", {})])
    stream = daemon.session("s", "go")

    (before,) = eventually(lambda: open_questions(daemon, "s"), "it is asked")
    for _ in range(4):
        # However often: nobody pays for it.
        daemon.signal(how)
        daemon.wait_exit()
        daemon.start()
        assert eventually(lambda: open_questions(daemon, "s"), "it is asked again") == [before]
    assert len(model.requests) == 1
    model.script("done")
    answer = {"requestId": before["requestId"], "answers": [["yes"]]}
    assert daemon.bus.ask_json(daemon.subject("s") + ".answer", answer)["answered"]
    daemon.wait_session("s", lambda facts: not facts["activeRequest"], "it is answered")
    assert stream.text() == "done"
    results = [text for text, _ in model.requests[-1].tool_results]
    assert len(results) == 2 and "yes" in results[0] + results[1]
    assert "interrupted" not in str(results)


def test_a_questions_time_goes_on(new_daemon, model):
    daemon = new_daemon().start("--question-timeout", "2")
    model.script([ToolCall("question", QUESTION)])
    stream = daemon.session("s", "go")
    eventually(lambda: "nats-pi-bridge.question" in str(only_entries(daemon)) if daemon.session_files() else False, "it is asked")
    kill(daemon)
    model.script("nobody there")
    daemon.config["questionTimeout"] = 600
    daemon.start()
    assert stream.text() == "nobody there"
    assert "nobody answered in time" in model.requests[-1].tool_results[0][0]


@pytest.mark.parametrize("where", ["stream", "tool"])
def test_a_stop_in_the_middle(new_daemon, model, where):
    """SIGTERM: the turn goes on when the daemon is there again, and its caller gets the one end of it then."""
    daemon = new_daemon().start("--grace", "0")
    tool, begun = running_tool(daemon)
    model.script(["half", tool if where == "tool" else Stall()])
    stream = daemon.session("s", "go")
    stream.until("half")
    if where == "tool":
        begun()
    daemon.signal(signal.SIGTERM)
    assert daemon.wait_exit() == 0
    model.script("done")
    daemon.start()
    assert stream.text() == "half" + ("halfdone" if where == "tool" else "done")
    marked(stream, "half")
    daemon.assert_nothing_follows(stream)
    results = [str(result) for result in model.requests[-1].tool_results]
    if where == "tool":
        assert len(results) == 1 and "interrupted, outcome unknown" in results[0]
    assert roles(daemon) == (["user", "assistant", "toolResult", "assistant"] if where == "tool" else ["user", "assistant"])


def test_a_run_is_stopped_in_the_middle(new_daemon, model):
    """It goes on as well, unless its caller is on a socket and was told."""
    daemon = new_daemon().start("--grace", "0")
    model.answer(lambda request: ["half", Stall()])
    stream = daemon.run("go")
    stream.until("half")
    with Bridge(daemon.socket) as client:
        client.exchange("run", id=1, body="x", cwd=str(daemon.cwd), stream=True)
        client.next(lambda record: record["type"] == "chunk")
        daemon.signal(signal.SIGTERM)
        end = client.next(lambda record: record["type"] == "end")
    assert end["code"] == "shutting_down"
    assert daemon.wait_exit() == 0
    model.answer(lambda request: "done")
    daemon.start()
    assert stream.text() == "halfdone"
    assert [request.prompts for request in model.requests] == [["go"], ["x"], ["go"]]


def test_a_stopped_session_does_not_come_back(daemon, model):
    model.script(["half", Stall()])
    stream = daemon.session("s", "go")
    stream.until("half")
    with Bridge(daemon.session_socket("s")) as client:
        client.ask("steer", message="left")
    daemon.stop_session("s")
    stream.failure()
    (path,) = daemon.session_files()
    model.script("new")
    assert daemon.session("t", "hi", resume=str(path)).text() == "new"
    kill(daemon)
    daemon.start()
    assert daemon.session_ids() == ["t"]
    with pytest.raises(NoResponders):
        daemon.bus.ask(daemon.subject("s"), b"x", timeout=2)
    assert daemon.inspect("t")["pendingMessages"] == 0 and len(model.requests) == 2
