"""Golden answers: every code of an error of the daemon itself, to the intake, to the controller and over the socket."""

from dataclasses import dataclass

import json

import pytest

from support import error_forms as forms
from support.error_forms import Caller, bare
from support.keys import Signer, new_user
from support.model_script import Gate

STREAMING = ("run", "session")


@dataclass
class Case:
    """One error: its document, and the requests that are refused with it."""

    status: int
    document: dict
    intake: tuple = ()
    """Fields of requests, or payloads that are none."""
    controller: tuple = ()
    """Pairs of verb and payload."""
    client: tuple = ()
    """Fields of requests with their type."""
    headers: dict = None
    signer: Signer = None
    """Who signs the requests over NATS."""

    def signed(self, subject, payload):
        """The payload as it is sent, and its headers."""
        if self.signer is None:
            return payload, self.headers
        payload = json.dumps(payload)
        return payload, self.signer.headers(subject, payload)

    def check(self, caller, **places):
        document = fill(self.document, places)
        for payload in self.intake:
            payload = fill(payload, places)
            mode = payload.get("sessionMode") if isinstance(payload, dict) else None
            stream = caller.intake(*self.signed(caller.daemon.intake, payload))
            stream.has_end = mode not in ("stop", "list")
            found = caller.hear(stream)
            assert found == forms.intake(document, self.status, stream.has_end), payload
        for verb, payload in self.controller:
            payload = fill(payload, places)
            subject = f"agents.{verb}.pi-exec.{caller.daemon.owner}.control"
            found = caller.hear(caller.controller(verb, *self.signed(subject, payload)))
            assert found == forms.controller(document, self.status), (verb, payload)
        for request in self.client:
            request = fill(request, places)
            found = caller.asked(**request, path=caller.daemon.socket)
            assert found == forms.client(document, request["kind"]), request


def fill(value, places):
    """A value with the places that only the test knows."""
    if isinstance(value, dict):
        return {key: fill(field, places) for key, field in value.items()}
    if isinstance(value, str):
        for name, place in places.items():
            value = value.replace(f"<{name}>", place)
    return value


RUN = {"body": "go", "cwd": "<cwd>"}
SESSION = {**RUN, "sessionId": "t"}
SPAWN = {"cwd": "<cwd>", "session_id": "t"}
NO_LEVEL = 'thinkingLevel "deep" is none of off, minimal, low, medium, high, xhigh, max'
ID_RULE = "an id is 1 to 64 of the characters A-Z a-z 0-9 _ -"

CASES = {
    "no JSON": Case(
        400,
        {"error": "invalid_json", "message": "EOF while parsing an object at line 1 column 1"},
        intake=("{",),
        controller=(("spawn", "{"), ("stop", "{"), ("list", "{")),
    ),
    "no mode": Case(
        400,
        {"error": "invalid_request", "message": "sessionMode required"},
        intake=("{}", "[]", "7", {"sessionMode": None}),
    ),
    "a mode that nobody knows": Case(
        400, {"error": "invalid_sessionMode", "sessionMode": "explöde"}, intake=({"sessionMode": "explöde"},)
    ),
    "a run without its fields": Case(
        400,
        {"error": "missing_fields", "required": ["body", "cwd"]},
        intake=({"sessionMode": "run"}, {"sessionMode": "run", **RUN, "body": " "}),
        client=({"kind": "run"}, {"kind": "run", **RUN, "cwd": 7, "stream": True}),
    ),
    "a session without its fields": Case(
        400,
        {"error": "missing_fields", "required": ["body", "cwd", "sessionId"]},
        intake=({"sessionMode": "session", **RUN},),
        client=({"kind": "session", **RUN},),
    ),
    "a spawn without its fields": Case(
        400, {"error": "missing_fields", "required": ["cwd"]}, controller=(("spawn", ""), ("spawn", {"cwd": 7}))
    ),
    "a stop without its fields": Case(
        400,
        {"error": "missing_fields", "required": ["sessionId"]},
        intake=({"sessionMode": "stop"},),
        controller=(("stop", {}),),
        client=({"kind": "stop"},),
    ),
    "an id that cannot be one": Case(
        400,
        {"error": "invalid_sessionId", "sessionId": "a.b", "message": ID_RULE},
        intake=({"sessionMode": "session", **SESSION, "sessionId": "a.b"}, {"sessionMode": "stop", "sessionId": "a.b"}),
        controller=(("spawn", {**SPAWN, "session_id": "a.b"}), ("stop", {"session_id": "a.b"})),
        client=({"kind": "session", **SESSION, "sessionId": "a.b"}, {"kind": "stop", "sessionId": "a.b"}),
    ),
    "an id that is taken": Case(
        409,
        {
            "error": "session_exists", "sessionId": "s", "subject": "agents.pi-exec.<owner>.s",
            "message": 'session "s" exists; stop it first or use its subject',
        },
        intake=({"sessionMode": "session", **SESSION, "sessionId": "s"},),
        controller=(("spawn", {**SPAWN, "session_id": "s"}),),
        client=({"kind": "session", **SESSION, "sessionId": "s", "stream": True},),
    ),
    "a folder that is not there": Case(
        400,
        {"error": "session_create_failed", "message": 'cwd "/no/such": No such file or directory (os error 2)'},
        intake=({"sessionMode": "run", **RUN, "cwd": "/no/such"}, {"sessionMode": "session", **SESSION, "cwd": "/no/such"}),
        controller=(("spawn", {**SPAWN, "cwd": "/no/such"}),),
        client=({"kind": "run", **RUN, "cwd": "/no/such", "stream": True}, {"kind": "session", **SESSION, "cwd": "/no/such"}),
    ),
    "a model that is not there": Case(
        400,
        {"error": "session_create_failed", "message": 'Unknown model "nobody/at-all"'},
        intake=({"sessionMode": "run", **RUN, "model": "nobody/at-all"},),
        controller=(("spawn", {**SPAWN, "model": "nobody/at-all"}),),
        client=({"kind": "run", **RUN, "model": "nobody/at-all"},),
    ),
    "a value out of range": Case(
        400,
        {"error": "invalid_request", "message": NO_LEVEL},
        intake=({"sessionMode": "run", **RUN, "thinkingLevel": "deep"},),
        controller=(("spawn", {**SPAWN, "thinking_level": "deep"}),),
        client=({"kind": "run", **RUN, "thinkingLevel": "deep"},),
    ),
    "a session that is not there": Case(
        404,
        {"error": "not_found", "sessionId": "nobody"},
        intake=({"sessionMode": "stop", "sessionId": "nobody"},),
        controller=(("stop", {"session_id": "nobody"}),),
        client=({"kind": "stop", "sessionId": "nobody"},),
    ),
    "a sender that cannot be read": Case(
        400,
        {"error": "invalid_request", "message": "invalid_sender: the header Agent-Sender is malformed: no JSON object"},
        intake=({"sessionMode": "run", **RUN}, {"sessionMode": "stop", "sessionId": "s"}),
        controller=(("spawn", SPAWN), ("stop", {"session_id": "s"})),
        headers={"Agent-Sender": "me"},
    ),
}


@pytest.fixture
def new_caller(new_daemon, model):
    made = []

    def make(*arguments, create=None, **config):
        daemon = new_daemon()
        daemon.config.update(config)
        daemon.start(*arguments)
        made.append(Caller(daemon))
        return made[-1]

    yield make
    for caller in made:
        caller.close()


def with_session(caller, model):
    model.script("hello")
    caller.daemon.session("s", "hi").text()
    return caller


def places(caller):
    return {"cwd": str(caller.daemon.cwd), "owner": caller.daemon.owner}


@pytest.mark.parametrize("name", CASES)
def test_the_whole_answer(new_caller, model, name):
    caller = with_session(new_caller(), model)
    CASES[name].check(caller, **places(caller))
    # Nothing of what was refused has begun.
    assert caller.daemon.session_ids() == ["s"] and caller.daemon.list()["runs"] == []
    assert len(model.requests) == 1


FULL = Case(
    429,
    {"error": "busy", "message": "1 sessions are open, which is the limit", "retryAfter": 0.25},
    intake=({"sessionMode": "run", **RUN}, {"sessionMode": "session", **SESSION}),
    controller=(("spawn", SPAWN),),
    client=({"kind": "run", **RUN, "stream": True}, {"kind": "session", **SESSION}),
)


def test_as_many_sessions_as_there_may_be(new_caller, model):
    caller = with_session(new_caller(maxSessions=1), model)
    FULL.check(caller, **places(caller))


DRAINED = Case(
    503,
    {"error": "draining", "message": "this host takes no new work for now; try another one, or later"},
    intake=FULL.intake,
    controller=FULL.controller,
    client=FULL.client,
)


def test_a_daemon_that_is_drained(new_caller, model):
    caller = with_session(new_caller(), model)
    assert caller.daemon.bus.ask_json(caller.daemon.intake, {"sessionMode": "drain"})["draining"]
    DRAINED.check(caller, **places(caller))


ENDING = Case(
    503,
    {"error": "shutting_down"},
    intake=(
        {"sessionMode": "run", **RUN}, {"sessionMode": "session", **SESSION}, {"sessionMode": "list"},
        {"sessionMode": "stop", "sessionId": "s"},
    ),
    controller=(("spawn", SPAWN), ("stop", {"session_id": "s"}), ("list", {})),
)


def test_a_daemon_that_ends(new_caller, model):
    caller = with_session(new_caller("--grace", "3600"), model)
    model.script(["begun", Gate()])
    caller.plain().until("begun")
    clients = [caller.client(caller.daemon.socket) for _ in range(4)]
    caller.daemon.signal()
    caller.daemon.wait_log("shutting down")
    ENDING.check(caller, **places(caller))
    for client, request in zip(
        clients,
        [{"kind": "run", **RUN}, {"kind": "session", **SESSION, "stream": True}, {"kind": "list"}, {"kind": "stop", "sessionId": "s"}],
    ):
        request = fill(request, places(caller))
        assert bare(client.exchange(id=1, **request)) == forms.client(ENDING.document, request["kind"])


UNSIGNED = Case(
    401,
    {"error": "unauthorized", "message": "signature_required: this agent wants signed requests"},
    intake=({"sessionMode": "run", **RUN}, {"sessionMode": "session", **SESSION}, {"sessionMode": "stop", "sessionId": "s"}),
    controller=(("spawn", SPAWN), ("stop", {"session_id": "s"})),
)


def test_requests_that_are_not_signed(new_caller):
    caller = new_caller(minSenderTrust="signed")
    UNSIGNED.check(caller, **places(caller))


FORBIDDEN = Case(
    403,
    {"error": "forbidden", "message": "sender_forbidden: this user is not among the trusted ones"},
    intake=UNSIGNED.intake,
    controller=UNSIGNED.controller,
    signer=Signer(),
)


def test_requests_that_a_stranger_signed(new_caller):
    caller = new_caller(minSenderTrust="signed", trustedSenders=[new_user()[0]])
    FORBIDDEN.check(caller, **places(caller))


ANOTHER = Case(
    409,
    {"error": "duplicate_request", "message": "the Nats-Msg-Id was used for another request"},
    intake=({"sessionMode": "run", **RUN}, {"sessionMode": "session", **SESSION}, {"sessionMode": "stop", "sessionId": "s"}),
    controller=(("spawn", SPAWN), ("stop", {"session_id": "s"})),
    headers={"Nats-Msg-Id": "one"},
)


def test_an_id_of_another_request(new_caller, model):
    caller = with_session(new_caller(), model)
    model.answer(lambda _request: "hi")
    daemon = caller.daemon
    first = daemon.bus.request(daemon.intake, {"sessionMode": "run", "body": "first", "cwd": "/"}, ANOTHER.headers)
    assert first.text() == "hi"
    for verb in ("spawn", "stop"):
        made = daemon.bus.ask_json(f"agents.spawn.pi-exec.{daemon.owner}.control", {"cwd": "/", "session_id": verb})
        assert made["session_id"] == verb
        subject = f"agents.{verb}.pi-exec.{daemon.owner}.control"
        document = {"cwd": "/", "session_id": "first"} if verb == "spawn" else {"session_id": "spawn"}
        assert daemon.bus.ask_json(subject, document, headers=ANOTHER.headers)["session_id"] == document["session_id"]
    ANOTHER.check(caller, **places(caller))


def test_the_forms_in_full():
    """One answer of each form as it stands on the wire, so that a fault of the functions that make them shows."""
    document = {"error": "busy", "message": "nö\nmore"}
    headers = {"Nats-Service-Error-Code": "429", "Nats-Service-Error": "busy: n??more"}
    payload = '{"error":"busy","message":"nö\\nmore"}'
    assert forms.intake(document, 429, True) == {"payload": payload, "headers": headers, "ends": 1}
    assert forms.controller(document, 429) == {"payload": payload, "headers": headers, "ends": 0}
    ending = {"Nats-Service-Error-Code": "500", "Nats-Service-Error": "shutting_down"}
    assert forms.controller({"error": "shutting_down"}, 503) == {
        "payload": '{"error":"shutting_down"}', "headers": ending, "ends": 0,
    }
    assert forms.client(document, "run") == {
        "type": "response", "command": "run", "success": False, "error": "busy: nö\nmore", "code": "busy",
        "details": {"error": "busy", "message": "nö\nmore"},
    }


def test_every_code_has_its_golden_answer():
    cases = [*CASES.values(), FULL, DRAINED, ENDING, UNSIGNED, FORBIDDEN, ANOTHER]
    assert {(case.document["error"], case.status) for case in cases} == forms.errors_of("DaemonError")
