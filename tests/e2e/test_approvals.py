"""Approvals: calls that wait until somebody allows them, who may, and what becomes of those that nobody sees."""

import json
import signal
import threading
from datetime import datetime, timedelta

import pytest

from support.agents import prompt
from support.bridge import Bridge
from support.bus import ERROR_CODE
from support.cli import BINARY as CLI
from support.model_script import ToolCall
from support.waiting import eventually

ASK = {"tool": "bash", "match": "touch*", "do": "ask"}


@pytest.fixture
def asking(new_daemon, model):
    """A daemon with a session `s` whose model calls `touch ran` when it is prompted."""
    made = []

    class Asking:
        def __init__(self, watched=True, rules=(ASK,), commands=("touch ran",), create=None, **config):
            self.daemon = new_daemon()
            self.daemon.config.update(rules=list(rules), **config)
            self.daemon.start()
            self.ran = self.daemon.cwd / "ran"
            model.script("hello")
            self.daemon.session("s", "hi", tools=["bash"], **(create or {})).text()
            self.client = self.connect() if watched else None
            model.script([ToolCall("bash", {"command": command}) for command in commands], "done")
            self.stream = self.daemon.prompt("s", "go")

        def connect(self):
            made.append(Bridge(self.daemon.session_socket("s")))
            return made[-1]

        def opened(self, client=None):
            return self.event("opened", client)["request"]

        def event(self, action, client=None):
            client = client or self.client
            return client.event("question", where=lambda event: event["data"]["action"] == action)["data"]

        def verb(self, name, **payload):
            message = self.daemon.bus.ask(f"{self.daemon.subject('s')}.{name}", payload)
            return json.loads(message.data), (message.headers or {}).get(ERROR_CODE)

        def told(self, number=-1):
            """What the model was told of a call, and whether as an error, once the run is over."""
            assert self.stream.text() == "done"
            return model.requests[-1].tool_results[number]

        def records(self, kind):
            lines = self.daemon.session_files()[0].read_text().splitlines()
            entries = [json.loads(line) for line in lines]
            return [entry["data"] for entry in entries if entry.get("customType") == f"nats-pi-bridge.{kind}"]

    yield Asking
    for client in made:
        client.close()


def test_a_call_waits_until_it_is_approved(asking):
    session = asking()
    request = session.opened()
    assert (request["tool"], request["arguments"], request["rule"]) == ("bash", {"command": "touch ran"}, "bash touch*")
    (listed,) = session.client.ask("questions")["questions"]
    assert (listed["kind"], listed["request"]) == ("approval", request)
    assert session.records("intent") == [], "nothing is intended before somebody said yes"
    # Answers are not approvals.
    for kind, fields in [("answer", {"answers": [["Allow"]]}), ("reject", {})]:
        response = session.client.exchange(kind, requestId=request["id"], **fields)
        assert (response["code"], "only approve" in response["error"]) == ("bad_request", True)
    assert not session.ran.exists()
    response = session.client.exchange("approve", requestId=request["id"], hash=request["hash"], allow=True)
    assert (response["command"], response["data"]) == ("approve", {"requestId": request["id"], "allowed": True})
    assert session.event("allowed")["result"] == {"requestId": request["id"], "allowed": True}
    assert session.told() == ("(no output)", False)
    assert session.ran.exists()
    assert session.client.ask("questions")["questions"] == []
    assert [record["toolName"] for record in session.records("intent")] == ["bash"]


def test_others_of_the_answer_do_not_wait(asking):
    session = asking(commands=["touch ran", "echo other > there"])
    request = session.opened()
    eventually((session.daemon.cwd / "there").exists, "the other call ran")
    assert not session.ran.exists()
    session.client.ask("approve", requestId=request["id"], hash=request["hash"], allow=False, reason="use make")
    assert session.event("denied")["result"]["denied"]["by"] == "person"
    text, error = session.told(0)
    assert error and text.startswith("denied: a person")
    assert not session.ran.exists()


def test_a_no_and_its_reason_reach_the_model(asking):
    session = asking()
    request = session.opened()
    session.client.ask("approve", requestId=request["id"], hash=request["hash"], allow=False, reason="use make")
    text, error = session.told()
    assert error and text.startswith("denied: a person did not approve this call, and said: use make. The call was not run.")
    assert not session.ran.exists()


def test_with_nobody_there_the_denial_is_quick_and_says_why(asking, model):
    session = asking(watched=False)
    text, error = session.told()
    assert error and text.startswith('denied: the rule "bash touch*" wants a person\'s approval for this call, and nobody is there')
    with session.connect() as client:
        events = [event["data"] for event in client.ask("history", event="question")["events"]]
    assert [event["action"] for event in events] == ["opened", "denied"]
    assert events[1]["result"]["denied"]["by"] == "nobody"
    # 50 ms are promised; ten times that are for a debug build on a busy machine.
    opened, closed = (datetime.fromisoformat(events[1][key]) for key in ("openedAt", "closedAt"))
    assert closed - opened < timedelta(milliseconds=500)
    assert not session.ran.exists()


def test_a_bot_on_nats_is_somebody(new_daemon, model, own_bus):
    """It hears of the approval although events are not published, and approves by the verb of its own."""
    daemon = new_daemon()
    daemon.config.update(rules=[ASK])
    daemon.start()
    bot = own_bus(daemon.config["server"])
    calls = bot.listen(f"agents.ev.{daemon.owner}.*.question")
    bot.flush()
    model.script([ToolCall("bash", {"command": "touch ran"})], "done")
    stream = daemon.session("s", "hi", tools=["bash"])
    event = json.loads(calls.message().data)
    request = event["data"]["request"]
    answer = bot.ask_json(
        f"{daemon.subject('s')}.approve", {"requestId": request["id"], "hash": request["hash"], "allow": True}
    )
    assert answer == {"requestId": request["id"], "allowed": True}
    assert json.loads(calls.message().data)["data"]["action"] == "allowed"
    assert stream.text() == "done"
    assert (daemon.cwd / "ran").exists()


def test_stale_and_forged_settlements_change_nothing(asking):
    session = asking()
    request = session.opened()
    right = {"requestId": request["id"], "hash": request["hash"], "allow": True}
    for wrong in ({"hash": "0" * 64}, {"hash": request["hash"][:-1]}, {"requestId": "apr_x"}):
        document, status = session.verb("approve", **{**right, **wrong})
        assert (document["error"], status) == ("stale_answer", "409")
        response = session.client.exchange("approve", **{**right, **wrong})
        assert response["code"] == "stale_answer"
    for missing in ("requestId", "hash", "allow"):
        fields = {key: value for key, value in right.items() if key != missing}
        document, status = session.verb("approve", **fields)
        assert (document["error"], status, missing in document["message"]) == ("invalid_request", "400", True)
    assert not session.ran.exists()
    session.client.ask("approve", **right)
    document, status = session.verb("approve", **{**right, "allow": False})
    assert (document["error"], status) == ("stale_answer", "409")
    assert session.told()[1] is False


def test_ten_thousand_forged_settlements_run_nothing(asking):
    session = asking()
    request = session.opened()
    clients = [session.connect() for _ in range(2)]
    for client in clients:
        client.send_bytes(
            b"".join(
                json.dumps({"type": "approve", "id": n, "requestId": request["id"], "hash": f"{n:064x}", "allow": True}).encode() + b"\n"
                for n in range(5000)
            )
        )
    for client in clients:
        codes = [client.response(n)["code"] for n in range(5000)]
        assert set(codes) == {"stale_answer"}
    assert not session.ran.exists() and session.records("intent") == []
    session.client.ask("approve", requestId=request["id"], hash=request["hash"], allow=False)
    assert session.told()[1] is True
    assert not session.ran.exists()


def test_of_two_who_settle_one_counts(asking):
    session = asking(commands=["echo x >> count; touch ran"])
    request = session.opened()
    clients = [session.connect() for _ in range(4)]
    start, outcomes = threading.Barrier(len(clients)), [None] * len(clients)

    def settle(number):
        start.wait(10)
        allow = number % 2 == 0
        outcomes[number] = clients[number].exchange("approve", requestId=request["id"], hash=request["hash"], allow=allow)

    threads = [threading.Thread(target=settle, args=(number,)) for number in range(len(clients))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    (winner,) = [number for number, outcome in enumerate(outcomes) if outcome["success"]]
    assert {outcome["code"] for number, outcome in enumerate(outcomes) if number != winner} == {"stale_answer"}
    assert session.told()[1] is (winner % 2 == 1)
    assert session.ran.exists() is (winner % 2 == 0)
    if session.ran.exists():
        assert (session.daemon.cwd / "count").read_text() == "x\n"


def test_for_the_session_means_this_very_call(asking, model):
    session = asking()
    request = session.opened()
    session.client.ask("approve", requestId=request["id"], hash=request["hash"], allow=True, forSession=True)
    assert session.told()[1] is False
    session.client.close()
    for again in (False, True):
        if again:
            session.daemon.signal()
            assert session.daemon.wait_exit() == 0
            session.daemon.start()
        session.ran.unlink()
        model.script([ToolCall("bash", {"command": "touch ran"}), ToolCall("bash", {"command": "touch other"})], "done")
        session.stream = session.daemon.prompt("s", "go")
        session.told()
        results = model.requests[-1].tool_results[-2:]
        assert [error for _, error in results] == [False, True]
        assert session.ran.exists()


def test_time_runs_out(asking):
    session = asking(approvalTimeout=1)
    request = session.opened()
    text, error = session.told()
    assert error and text.startswith("approval_expired: ") and "within 1 s" in text
    assert session.event("denied")["result"]["denied"]["error"] == "approval_expired"
    document, status = session.verb("approve", requestId=request["id"], hash=request["hash"], allow=True)
    assert (document["error"], status) == ("stale_answer", "409")


@pytest.mark.parametrize(("unattended", "code"), [("1", "approval_expired"), ("wait", "approval_expired")])
def test_unattended_sessions_may_wait(asking, unattended, code):
    """For a while of their own, or as long as others; somebody who comes meanwhile can approve."""
    session = asking(watched=False, unattended=unattended, approvalTimeout=1 if unattended == "wait" else 600)
    text, error = session.told()
    assert error and text.startswith(f"{code}: ")


def test_somebody_who_comes_later_can_approve(asking):
    session = asking(watched=False, unattended="60")
    (listed,) = eventually(lambda: session_questions(session), "it is open")
    request = listed["request"]
    document, status = session.verb("approve", requestId=request["id"], hash=request["hash"], allow=True)
    assert (document["allowed"], status) == (True, None)
    assert session.told()[1] is False


def session_questions(session):
    with Bridge(session.daemon.socket) as client:
        return client.ask("questions", session="s")["questions"]


def test_an_abort_answers_at_once(asking):
    session = asking()
    session.opened()
    session.client.ask("abort")
    assert session.event("denied")["result"]["denied"]["by"] == "end"
    session.stream.failure()
    assert session.client.ask("questions")["questions"] == []
    assert not session.ran.exists()


def test_a_stop_answers_at_once(asking):
    session = asking()
    session.opened()
    session.daemon.stop_session("s")
    session.stream.failure()
    assert not session.ran.exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["stop", "crash"])
def test_an_approval_survives_a_restart(asking, number):
    session = asking(grace=0)
    before = session.opened()
    session.daemon.signal(number)
    session.daemon.wait_exit()
    session.daemon.start()
    (listed,) = eventually(lambda: session_questions(session), "it is open again")
    assert listed["request"] == before
    assert not session.ran.exists()
    session.verb("approve", requestId=before["id"], hash=before["hash"], allow=True)
    eventually(session.ran.exists, "it ran")
    if number == signal.SIGKILL:
        assert session.told()[1] is False
    session.daemon.wait_session("s", lambda facts: not facts["activeRequest"], "the session is idle")


def test_programs_of_an_agent_cannot_approve(asking):
    """What a tool starts is refused by the side channel, so that a model cannot approve its own calls."""
    approve = f'until [ -s asked ]; do sleep 0.05; done; {CLI} --socket "$(cat path)" --timeout 5 request "$(cat asked)"; echo "exit code $?"'
    # Without the sandbox, which would not let it near the socket.
    session = asking(commands=["touch ran", approve], sandbox="off")
    request = session.opened()
    asked = {"type": "approve", "requestId": request["id"], "hash": request["hash"], "allow": True}
    (session.daemon.cwd / "path").write_text(str(session.daemon.session_socket("s")))
    (session.daemon.cwd / "new").write_text(json.dumps(asked))
    (session.daemon.cwd / "new").rename(session.daemon.cwd / "asked")
    end = session.client.event("tool_execution_end")["data"]
    assert end["result"]["content"][0]["text"].strip().endswith("exit code 1"), end
    assert not session.ran.exists()
    session.client.ask("approve", requestId=request["id"], hash=request["hash"], allow=False)
    assert session.told(0)[1] is True


def test_a_caller_of_the_agent_protocol_is_asked(new_daemon, model):
    daemon = new_daemon()
    daemon.config.update(rules=[ASK], unattended="wait")
    daemon.start()
    model.script("hello")
    daemon.session("s", "hi", tools=["bash"]).text()
    for answer, allowed in [("Allow", True), ("2", False), ("rather not", False)]:
        (daemon.cwd / "ran").unlink(missing_ok=True)
        model.script([ToolCall("bash", {"command": "touch ran"})], "done")
        wire = prompt(daemon, "s", "go").ack()
        kind, data = wire.next()
        while kind != "query":
            kind, data = wire.next()
        assert data["prompt"].startswith('Allow bash {"command":"touch ran"} (rule: bash touch*)?')
        daemon.bus.publish(data["reply_subject"], json.dumps({"prompt": answer}))
        wire.rest()
        assert model.requests[-1].tool_results[-1][1] is not allowed
        assert (daemon.cwd / "ran").exists() is allowed
