"""Golden answers: every code of an error of a session, on every wire on which it can come, as the whole answer.

A case provokes one error on all its wires; `FORMS` says what each of them makes of its code, status and message. The last
test holds the cases against the codes that the source has.
"""

import base64
import functools
import json
import signal
from dataclasses import dataclass

import pytest

from support import error_forms as forms
from support.agents import prompt_subject
from support.daemon import API_KEY
from support.error_forms import Caller, bare, ended
from support.keys import Signer, new_user
from support.model_script import Failure, Gate, Raw, Text, ToolCall
from support.waiting import eventually

FORMS = {
    "plain": forms.plain,
    "run": forms.plain,
    "agent": forms.agent,
    "verb": forms.verb,
    "response": forms.response,
    "end": forms.end,
    "run end": forms.end,
    "tool": forms.denied,
}

# More than a compaction keeps.
LONG = "All work and no play. " * 100


def is_settled(bus, log):
    return b"nats-pi-bridge.settled" in bus.ask("$JS.API.DIRECT.GET.AGL", log).data


@dataclass
class Place:
    """What a case has to work with."""

    new_daemon: object
    own_server: object
    own_bus: object
    directory: object
    model: object
    callers: list

    def worker(self, arguments=(), create=None, **config):
        """A caller of a daemon that has a session and does not ask a model again that failed."""
        return self.worker_of(self.new_daemon(), arguments, create, **config)

    def worker_of(self, daemon, arguments=(), create=None, **config):
        daemon.write_agent_file("settings.json", {"retry": {"enabled": False}, "compaction": {"keepRecentTokens": 50}})
        daemon.config.update(config)
        daemon.start(*arguments)
        self.model.script("hello")
        daemon.session("s", LONG, **(create or {})).text()
        self.callers.append(Caller(daemon))
        return self.callers[-1]

    def taken(self, here):
        """What callers get where another host took the session a moment ago, which says `here` that it is there, or nothing."""
        asking = {
            "plain": lambda caller: caller.plain(),
            "agent": lambda caller: caller.agent(),
            "verb": lambda caller: caller.verb("steer", "left"),
        }
        server = self.own_server(f"jetstream {{ store_dir: '{self.directory}/store' }}")
        bus, found = self.own_bus(server.url), {}
        for wire, ask in asking.items():
            daemon = self.new_daemon(server.url, bus=bus)
            caller = self.worker_of(daemon, fleet=True, fleetHost="h0")
            log = {"last_by_subj": f"ag.log.{daemon.owner}.s"}
            # Behind that the host has nothing more to say, so that it is the request that finds out.
            settled = functools.partial(is_settled, bus, log)
            eventually(settled, "the end of the first prompt is stored")
            questions = bus.listen(f"agents.peer.pi-exec.{daemon.owner}.h9") if here else None
            bus.flush()
            record = {"kind": "own", "host": "h9", "boot": "b", "shared": True}
            bus.ask_json(f"ag.log.{daemon.owner}.s", json.dumps(record) + "\n")
            stream = ask(caller)
            if questions:
                bus.publish(questions.message().reply, here)
            found[wire] = caller.hear(stream)
        return found

    def streams(self, caller, run=True, each=lambda: None):
        """An answer that is under way on each wire; `each` is called after each request."""
        found = {}
        for wire, begin in {
            "plain": caller.plain,
            "agent": caller.agent,
            "end": caller.streaming,
            **({"run": caller.run, "run end": lambda: caller.streaming(caller.daemon.socket, "run")} if run else {}),
        }.items():
            found[wire] = begin()
            each()
        return found


@pytest.fixture
def place(new_daemon, own_server, own_bus, tmp_path, model):
    made = Place(new_daemon, own_server, own_bus, tmp_path, model, [])
    yield made
    for caller in made.callers:
        caller.close()


def outcome(caller, streams):
    """How each of the streams ended."""
    return {wire: ended(stream) if wire.endswith("end") else caller.hear(stream) for wire, stream in streams.items()}


def compacting(place, caller, wire):
    """Begins a compaction whose summary does not come; returns what takes the answer."""
    gate = Gate()
    place.model.script("another", [gate])
    caller.plain(LONG).text()
    if wire == "verb":
        asked = caller.verb("compact")
    else:
        asked = caller.client(caller.daemon.socket)
        asked.send({"type": "compact", "id": 1})
    gate.wait_reached()
    return lambda: caller.hear(asked) if wire == "verb" else bare(asked.response(1))


def run_ids(daemon):
    return [run["sessionId"] for run in daemon.list()["runs"]]


@dataclass
class Case:
    """One error: its cause returns what was heard on each wire, and the command of a response where it is no prompt."""

    code: str
    status: int
    message: str
    cause: object
    command: str = "prompt"

    def check(self, place):
        found = self.cause(place)
        assert found, "it is heard somewhere"
        expected = {wire: FORMS[wire.split(":")[0]](self.code, self.status, self.message, command=self.command) for wire in found}
        assert found == expected


CASES = {}


def case(code, status, message, command="prompt"):
    def register(cause):
        CASES[cause.__name__] = Case(code, status, message, cause, command)
        return cause

    return register


# The model.


@case("empty_answer", 500, "empty_answer: the model's answer was empty, also when it was asked again")
def an_empty_answer(place):
    caller = place.worker()
    place.model.answer(lambda _request: [Text("")])
    return outcome(caller, place.streams(caller))


@case("model_error", 500, "400: no", command="compact")
def no_summary(place):
    caller = place.worker()
    place.model.script("second")
    caller.plain(LONG).text()
    place.model.answer(lambda _request: Failure(400, {"error": {"message": "no"}}))
    return {"verb": caller.hear(caller.verb("compact")), "response": caller.asked("compact")}


# Ends of the work.


@case("aborted", 500, "the prompt was aborted")
def an_abort(place):
    caller = place.worker()
    place.model.answer(lambda _request: ["begun", Gate()])
    streams = {}
    for wire, begin in {"plain": caller.plain, "agent": caller.agent, "end": caller.streaming}.items():
        stream = begin()
        caller.daemon.wait_session("s", lambda facts: facts["activeRequest"], "it is worked on")
        caller.verb("abort").message()
        streams.update(outcome(caller, {wire: stream}))
    for wire, begin in {"run": caller.run, "run end": lambda: caller.streaming(caller.daemon.socket, "run")}.items():
        stream = begin()
        (run,) = eventually(lambda: run_ids(caller.daemon), "the run is there")
        with caller.client(caller.daemon.socket) as client:
            client.ask("abort", session=run)
        streams.update(outcome(caller, {wire: stream}))
        eventually(lambda: not run_ids(caller.daemon), "the run is over")
    return streams


@case("not_found", 404, "session stopped")
def a_stopped_session(place):
    """The one prompt was worked on, the others waited."""
    caller = place.worker()
    place.model.answer(lambda _request: ["begun", Gate()])
    streams = place.streams(caller)
    ids = eventually(lambda: len(found := run_ids(caller.daemon)) == 2 and found, "the runs are there")
    caller.daemon.wait_session("s", lambda facts: facts["queuedRequests"] == 2, "two prompts wait")
    for session in ("s", *ids):
        caller.daemon.stop_session(session)
    return outcome(caller, streams)


@case("not_found", 404, "session stopped", command="compact")
def a_session_that_is_stopped_while_it_compacts(place):
    found = {}
    for wire in ("verb", "response"):
        caller = place.worker()
        finish = compacting(place, caller, wire)
        caller.daemon.stop_session("s")
        found[wire] = finish()
    return found


@case("conflict", 409, "session expired: its lifetime of 1 s is over")
def an_expired_session(place):
    caller = place.worker()
    place.model.answer(lambda _request: ["begun", Gate()])
    streams = place.streams(caller, run=False)
    caller.daemon.wait_session("s", lambda facts: facts["queuedRequests"] == 2, "two prompts wait")
    assert json.loads(caller.verb("extend", {"maxLifetime": 1}).message().data)["maxLifetime"] == 1
    streams["run"] = caller.run(maxLifetime=1)
    streams["run end"] = caller.streaming(caller.daemon.socket, "run", maxLifetime=1)
    return outcome(caller, streams)


@case("interrupted", 500, "interrupted: the host was restarted while it worked on this prompt")
def a_restart_in_the_middle(place):
    found = {}
    for wire in ("plain", "agent"):
        caller = place.worker(("--on-restart", "hold"))
        marker = caller.daemon.cwd / "ran"
        place.model.script([ToolCall("bash", {"command": f"touch {marker}; sleep 600"})])
        stream = getattr(caller, wire)()
        eventually(marker.exists, "the tool has begun")
        caller.daemon.signal(signal.SIGKILL)
        caller.daemon.wait_exit()
        caller.daemon.start()
        found[wire] = caller.hear(stream)
    return found


@case("shutting_down", 503, "shutting_down")
def the_end_of_the_daemon(place):
    """Prompts that wait, prompts and verbs that come while the daemon ends, and at last the prompt that it worked on."""
    # What is gone on with after the next start gets no end here.
    caller = place.worker(("--grace", "3600", "--on-restart", "end"))
    daemon = caller.daemon
    place.model.answer(lambda _request: ["begun", Gate()])
    streams = {f"{wire}:cut": stream for wire, stream in place.streams(caller).items()}
    eventually(lambda: len(run_ids(daemon)) == 2, "the runs are there")
    daemon.wait_session("s", lambda facts: facts["queuedRequests"] == 2, "two prompts wait")
    client, other = caller.client(), caller.client()
    daemon.signal()
    daemon.wait_log("shutting down")
    found = {"plain": caller.hear(caller.plain()), "agent": caller.hear(caller.agent())}
    found["verb"] = caller.hear(caller.verb("steer", "left"))
    found["response"] = bare(client.exchange("prompt", id=1, message="go"))
    found["response:streamed"] = bare(other.exchange("prompt", id=1, message="go", stream=True))
    daemon.signal()
    for wire, stream in streams.items():
        if wire.startswith(("end", "run end")):
            found[wire] = ended(stream)
    assert daemon.wait_exit() == 0
    return found | {wire: caller.hear(stream) for wire, stream in streams.items() if wire not in found}


@case("draining", 503, "draining: this host takes no new work for now; try another one, or later")
def a_host_that_is_drained(place):
    """New prompts, and what would begin work that does not belong to what runs."""
    caller = place.worker()
    daemon = caller.daemon
    assert daemon.bus.ask_json(daemon.intake, {"sessionMode": "drain"})["draining"]
    return {
        "plain": caller.hear(caller.plain()),
        "agent": caller.hear(caller.agent()),
        "verb:steer": caller.hear(caller.verb("steer", "left")),
        "verb:follow_up": caller.hear(caller.verb("follow_up", "more")),
        "response": caller.asked("prompt", message="go"),
        "response:streamed": caller.asked("prompt", message="go", stream=True),
    }


# Calls of tools, and what people say to them.


def asking(place, **config):
    caller = place.worker(create={"tools": ["bash"]}, rules=[{"tool": "bash", "match": "touch*", "do": "ask"}], **config)
    place.model.script([ToolCall("bash", {"command": "touch x"})], "done")
    return caller


def end_of_call(client):
    return {"tool": client.event("tool_execution_end")["data"]["result"]["details"]["denied"]}


@case("denied", 403, 'the rule "bash touch*" wants a person\'s approval for this call, and nobody is there to give it')
def a_call_that_nobody_sees(place):
    caller = asking(place)
    caller.plain().text()
    client = caller.client()
    (event,) = client.ask("history", event="tool_execution_end")["events"]
    return {"tool": event["data"]["result"]["details"]["denied"]}


@case("approval_expired", 409, 'the rule "bash touch*" wants a person\'s approval for this call, and nobody gave it within 1 s')
def a_call_that_nobody_approves(place):
    caller = asking(place, approvalTimeout=1)
    client = caller.client()
    caller.plain().text()
    return end_of_call(client)


@case("stale_answer", 409, 'stale_answer: no approval "apr_x" is open', command="approve")
def an_approval_that_is_not_open(place):
    caller = place.worker()
    fields = {"requestId": "apr_x", "hash": "0", "allow": True}
    return {"verb": caller.hear(caller.verb("approve", fields)), "response": caller.asked("approve", **fields)}


# No room.


@case("queue_full", 429, "queue_full: 1 prompts are waiting already")
def a_full_queue(place):
    caller = place.worker(maxQueue=1)
    place.model.answer(lambda _request: ["begun", Gate()])
    caller.plain().until("begun")
    caller.plain()
    caller.daemon.wait_session("s", lambda facts: facts["queuedRequests"] == 1, "one prompt waits")
    return {
        "plain": caller.hear(caller.plain()),
        "agent": caller.hear(caller.agent()),
        "verb:steer": caller.hear(caller.verb("steer", "left")),
        "verb:follow_up": caller.hear(caller.verb("follow_up", "more")),
        "response": caller.asked("prompt", message="go", deliverAs="queue"),
        "response:streamed": caller.asked("prompt", message="go", stream=True),
    }


@case("busy", 409, "busy: a prompt is being worked on; abort it first", command="compact")
def work_that_leaves_no_time_to_compact(place):
    caller = place.worker()
    place.model.answer(lambda _request: ["begun", Gate()])
    caller.plain().until("begun")
    return {"verb": caller.hear(caller.verb("compact")), "response": caller.asked("compact")}


@case("busy", 409, "busy: a prompt is being worked on; steer it, queue behind it or abort it")
def work_that_leaves_no_time_for_a_prompt_now(place):
    caller = place.worker()
    place.model.answer(lambda _request: ["begun", Gate()])
    caller.plain().until("begun")
    return {
        "response": caller.asked("prompt", message="go", deliverAs="now"),
        "response:streamed": caller.asked("prompt", message="go", deliverAs="now", stream=True),
    }


@case("busy", 429, "busy: too many histories are asked for at a time")
def more_histories_than_are_made_at_a_time(place):
    """The prompts' `busy` of this status needs a system that has no thread left, or 20,000 signed requests."""
    caller = place.worker()
    with caller.client() as client:
        for _ in range(20):
            client.ask("emit", message="x" * 10_000)
    messages = [stream.message() for stream in caller.burst("history", 300)]
    refused = [message for message in messages if message.headers]
    return {
        f"verb:{number}": {"payload": message.data.decode(), "headers": dict(message.headers), "ends": 0}
        for number, message in enumerate(refused)
    }


@case("conflict", 409, "Nothing to compact (session too small)", command="compact")
def nothing_to_compact(place):
    caller = place.worker()
    place.model.answer(lambda _request: "short")
    return {"verb": caller.hear(caller.verb("compact")), "response": caller.asked("compact")}


@case("conflict", 409, "Compaction cancelled", command="compact")
def a_compaction_that_is_aborted(place):
    caller = place.worker()
    found = {}
    for wire in ("verb", "response"):
        finish = compacting(place, caller, wire)
        caller.verb("abort").message()
        found[wire] = finish()
    return found


@case("duplicate_request", 409, "duplicate_request: it was sent before, and its answer is too long to be repeated")
def a_long_answer_that_is_asked_for_again(place):
    caller = place.worker()
    place.model.answer(lambda _request: [Text("x" * (600 << 10)), Text("y" * (600 << 10))])
    found = {}
    for wire, ask in {"plain": caller.plain, "agent": caller.agent, "run": caller.run}.items():
        headers = {"Nats-Msg-Id": wire}
        first = ask(headers=headers)
        while first.message().data:
            pass
        found[wire] = caller.hear(ask(headers=headers))
    return found


# Other hosts.


@case("moved", 409, "moved: the session is at the host h9; send it again")
def a_session_that_another_host_has(place):
    return place.taken("here")


@case("host_down", 503, "host_down: the session waits for its host h9, which is down")
def a_session_whose_host_is_down(place):
    return place.taken(None)


# The session's file.


@case("storage_error", 500, "storage_error: not a session file: it does not begin with a session's header")
def a_session_file_that_is_none(place):
    caller = place.worker()
    (path,) = caller.daemon.session_files()
    caller.daemon.signal(signal.SIGKILL)
    caller.daemon.wait_exit()
    path.write_text("no session\n")
    caller.daemon.start()
    return {
        "plain": caller.hear(caller.plain()),
        "agent": caller.hear(caller.agent()),
        "verb": caller.hear(caller.verb("steer", "left")),
        "response": caller.asked("prompt", message="go"),
        "response:streamed": caller.asked("prompt", message="go", stream=True),
    }


@case("storage_error", 500, "storage_error: not a session file: it does not begin with a session's header")
def a_session_file_that_was_replaced(place):
    caller = place.worker()
    (path,) = caller.daemon.session_files()
    other = path.with_suffix(".new")
    other.write_text("nonsense\n")
    other.rename(path)
    return {wire: caller.hear(getattr(caller, wire)()) for wire in ("plain", "agent")}


# What was sent makes no sense.


@case("bad_request", 400, "the prompt is empty")
def a_prompt_without_words(place):
    caller = place.worker()
    found = {f"plain:{text!r}": caller.hear(caller.plain(text)) for text in ("", " \n\t", {"body": " "}, {"prompt": ""})}
    return {**found, "verb": caller.hear(caller.verb("steer", " ")), "verb:f": caller.hear(caller.verb("follow_up", ""))}


@case("bad_request", 400, "the prompt is not UTF-8")
def a_prompt_that_is_no_text(place):
    caller = place.worker()
    return {"plain": caller.hear(caller.plain(b"\xff\xfe")), "verb": caller.hear(caller.verb("steer", b"\xff\xfe"))}


@case("empty_prompt", 400, "empty_prompt: the prompt is empty")
def an_agents_prompt_without_words(place):
    caller = place.worker()
    return {f"agent:{text!r}": caller.hear(caller.agent(text)) for text in ("", " \n\t", {"prompt": " "})}


@case("missing_prompt", 400, "missing_prompt: prompt must be a text")
def an_agents_request_without_a_prompt(place):
    caller = place.worker()
    return {f"agent:{body!r}": caller.hear(caller.agent(body)) for body in ({}, {"body": "x"}, {"prompt": 7})}


@case("invalid_text", 400, "invalid_text: the prompt is not UTF-8")
def an_agents_prompt_that_is_no_text(place):
    caller = place.worker()
    return {"agent": caller.hear(caller.agent(b"\xff\xfe"))}


@case("invalid_attachment", 400, "invalid_attachment: the content of \"ä.txt\" is no standard base64 with padding")
def an_attachment_that_cannot_be_decoded(place):
    caller = place.worker()
    files = [{"filename": "ä.txt", "content": "?"}]
    return {"agent": caller.hear(caller.agent({"prompt": "x", "attachments": files}))}


@case("invalid_json", 400, "invalid_json: EOF while parsing an object at line 1 column 1")
def a_request_that_is_no_json(place):
    caller = place.worker()
    verbs = ("compact", "history", "answer", "reject", "configure", "extend")
    found = {f"verb:{name}": caller.hear(caller.verb(name, "{")) for name in verbs}
    return {**found, "agent": caller.hear(caller.agent("{"))}


@case("unknown_verb", 404, "unknown_verb: explode")
def a_verb_that_nobody_knows(place):
    caller = place.worker()
    return {"verb": caller.hear(caller.verb("explode"))}


INVALID_FIELDS = {
    "answers required": ("answer", {"requestId": "q"}),
    "requestId required": ("reject", {"requestId": " "}),
    "instructions must be a text": ("compact", {"instructions": 7}),
    "events must be true or false": ("configure", {"events": "yes"}),
    "model must be a text": ("configure", {"model": 7}),
    "maxLifetime must be a number of seconds >= 0": ("extend", {"maxLifetime": -1}),
}
for words, (name, payload) in INVALID_FIELDS.items():

    def invalid_field(place, name=name, payload=payload):
        caller = place.worker()
        return {"verb": caller.hear(caller.verb(name, payload))}

    CASES[f"a field of {name}: {payload}"] = Case("invalid_request", 400, f"invalid_request: {words}", invalid_field)

UNUSABLE_SETTINGS = {
    "no thinking level: deep": {"thinkingLevel": "deep"},
    "Unknown model \"nobody/at-all\"": {"model": "nobody/at-all"},
}
for words, payload in UNUSABLE_SETTINGS.items():

    def unusable_setting(place, payload=payload):
        caller = place.worker()
        return {"verb": caller.hear(caller.verb("configure", payload))}

    CASES[f"a setting that cannot be used: {payload}"] = Case("bad_request", 400, words, unusable_setting)

QUESTION = {"question": "Where?", "options": [{"label": "here"}, {"label": "there"}]}


@case("bad_request", 400, "answers length (2) must match questions length (1)", command="answer")
def answers_that_are_too_many(place):
    caller = place.worker()
    place.model.script([ToolCall("question", {"questions": [QUESTION]})])
    caller.plain()
    with caller.client() as client:
        (question,) = eventually(lambda: client.ask("questions")["questions"], "a question is open")
    answer = {"requestId": question["requestId"], "answers": [["here"], ["there"]]}
    return {"verb": caller.hear(caller.verb("answer", answer)), "response": caller.asked("answer", **answer)}


@case("not_found", 404, "No pending question request: q", command="answer")
def an_answer_that_nobody_waits_for(place):
    caller = place.worker()
    answer = {"requestId": "q", "answers": [["here"]]}
    return {"verb": caller.hear(caller.verb("answer", answer)), "response": caller.asked("answer", **answer)}


@case("not_found", 404, "No pending question request: q", command="reject")
def a_question_that_nobody_asked(place):
    caller = place.worker()
    answer = {"requestId": "q"}
    return {"verb": caller.hear(caller.verb("reject", answer)), "response": caller.asked("reject", **answer)}


@case("quota_exceeded", 507, "quota_exceeded: the session's 5.0KB for waiting prompts are used up")
def a_prompt_for_which_there_is_no_room(place):
    caller, long = place.worker(maxSessionBytes=5120), "x" * 5121
    return {
        "plain": caller.hear(caller.plain(long)),
        "agent": caller.hear(caller.agent(long)),
        "verb:steer": caller.hear(caller.verb("steer", long)),
        "run": caller.hear(caller.run(body=long)),
        "response": caller.asked("prompt", message=long),
        "run end": ended(caller.streaming(caller.daemon.socket, "run", body=long)),
    }


@case("budget_exceeded", 402, "budget_exceeded: day.requests: 1 of 1 are used, and the next request may take 1")
def a_prompt_for_which_nothing_may_be_spent(place):
    caller = place.worker(budgets={"day": {"requests": 1}})
    return outcome(caller, place.streams(caller))


@case("budget_exceeded", 402, "budget_exceeded: day.requests: 2 of 2 are used, and the next request may take 1", command="compact")
def a_compaction_for_which_nothing_may_be_spent(place):
    caller = place.worker(budgets={"day": {"requests": 2}})
    place.model.script("second")
    caller.plain(LONG).text()
    return {"verb": caller.hear(caller.verb("compact")), "response": caller.asked("compact")}


# Who asks.


def signed(subject="other", **changes):
    """A header that is signed for another subject."""
    sender = {
        "v": 1, "account": "$G", "user": new_user()[0], "sub": subject, "ts": "2026-01-02T03:04:05.678Z", "nonce": "n",
        "sig": base64.urlsafe_b64encode(bytes(64)).decode().rstrip("="), **changes,
    }
    return {"Agent-Sender": json.dumps(sender)}


def on_all_of_nats(caller, headers=None):
    return {
        "plain": caller.hear(caller.plain(headers=headers)),
        "agent": caller.hear(caller.agent(headers=headers)),
        "verb:steer": caller.hear(caller.verb("steer", "left", headers)),
        "verb:abort": caller.hear(caller.verb("abort", headers=headers)),
    }


@case("invalid_sender", 400, "invalid_sender: the header Agent-Sender is malformed: no JSON object")
def a_sender_that_cannot_be_read(place):
    return on_all_of_nats(place.worker(), {"Agent-Sender": "me"})


@case("sender_rejected", 401, "sender_rejected: it was signed for another subject")
def a_signature_for_something_else(place):
    return on_all_of_nats(place.worker(), signed())


@case("signature_required", 401, "signature_required: this agent wants signed requests")
def a_request_that_is_not_signed(place):
    caller = place.worker()
    caller.daemon.signal()
    assert caller.daemon.wait_exit() == 0
    caller.daemon.config["minSenderTrust"] = "signed"
    caller.daemon.start()
    return on_all_of_nats(caller)


@case("sender_forbidden", 403, "sender_forbidden: this user is not among the trusted ones")
def a_good_signature_of_a_stranger(place):
    caller, stranger = place.worker(), Signer()
    caller.daemon.signal()
    assert caller.daemon.wait_exit() == 0
    caller.daemon.config.update(minSenderTrust="signed", trustedSenders=[new_user()[0]])
    caller.daemon.start()
    subject = caller.daemon.subject("s")

    def headers(subject, payload):
        return {"payload": payload, "headers": stranger.headers(subject, payload)}

    return {
        "plain": caller.hear(caller.plain(**headers(subject, "go"))),
        "agent": caller.hear(caller.agent(**headers(prompt_subject(caller.daemon, "s"), "go"))),
        "verb:steer": caller.hear(caller.verb("steer", **headers(f"{subject}.steer", "left"))),
        "verb:abort": caller.hear(caller.verb("abort", **headers(f"{subject}.abort", b""))),
    }


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_whole_answer(place, case):
    case.check(place)


# What the provider says is in the message only, and a header of it is one line.

PROVIDERS_WORDS = {
    "a number": (Failure(400, {"error": "529"}), "400: 529"),
    "JSON that looks like ours": (Failure(400, {"error": {"message": '{"error":"529"}'}}), "400: 529"),
    "a code of ours": (Failure(400, {"error": {"message": "queue_full: x", "code": "queue_full"}}), "400: queue_full: x"),
    "a status as text": (Failure(401, "404"), "401: 404"),
    "an event of the stream": (
        Raw('event: error\ndata: {"type":"error","error":{"type":"404","message":"not_found"}}\n\n'),
        "404: not_found",
    ),
    "several lines": (
        Failure(400, {"error": {"message": "no\r\nNats-Service-Error-Code: 404\r\n\r\nmore"}}),
        "400: no\r\nNats-Service-Error-Code: 404\r\n\r\nmore",
    ),
    "other letters": (Failure(400, {"error": {"message": "für 日本 \x00"}}), "400: für 日本 \x00"),
    "the key": (Failure(400, {"error": {"message": f"wrong key {API_KEY}!"}}), "400: wrong key [key]!"),
    "nothing": (Failure(403, ""), "403: status code (no body)"),
}


@pytest.mark.parametrize("words", PROVIDERS_WORDS)
def test_a_providers_words_are_no_code(place, words):
    caller = place.worker()
    failure, message = PROVIDERS_WORDS[words]
    place.model.answer(lambda _request: [failure])
    found = outcome(caller, place.streams(caller))
    assert found == {wire: FORMS[wire]("model_error", 500, message) for wire in found}


def test_the_forms_in_full():
    """One answer of each form as it stands on the wire, so that a fault of the functions that make them shows."""
    error = ("shutting_down", 503, "no\n\"ä\"")
    headers = {"Nats-Service-Error-Code": "503", "Nats-Service-Error": 'no?"?"'}
    document = '{"error":"shutting_down","message":"no\\n\\"ä\\""}'
    assert forms.plain(*error) == {
        "payload": 'error: no\n"ä"', "headers": {**headers, "Pi-Exec-Error": "shutting_down"}, "ends": 1,
    }
    assert forms.agent(*error) == {
        "payload": document, "headers": {**headers, "Nats-Service-Error-Code": "500"}, "ends": 1,
    }
    assert forms.verb(*error) == {"payload": document, "headers": headers, "ends": 0}
    assert forms.response(*error) == {
        "type": "response", "command": "prompt", "success": False, "error": 'no\n"ä"', "code": "shutting_down",
        "details": {"error": "shutting_down", "message": 'no\n"ä"'},
    }
    assert forms.end(*error) == {
        "type": "end", "success": False, "error": 'no\n"ä"', "code": "shutting_down", "status": 503,
    }


# Codes whose cause no test can bring about from outside, and why.
WITHOUT_CASE = {
    ("internal_error", 500): "a turn has to panic, and the daemon has no way to be asked for that",
}


def test_every_code_has_its_golden_answer():
    found = {(case.code, case.status) for case in CASES.values()}
    assert not found & set(WITHOUT_CASE)
    assert found | set(WITHOUT_CASE) == forms.errors_of("ErrorKind")
