"""Budgets that ask: a request beyond a limit is sent only after somebody allowed it."""

import re

import pytest

from support.bridge import Bridge
from support.waiting import eventually

pytestmark = pytest.mark.any_server
WORDS = r"error: budget_exceeded: session\.requests: \d of 1 are used, and the next request may take 1; (.*)"


@pytest.fixture
def asking(new_daemon, model):
    """A daemon with a session `s` that has used up its budget, and a client that follows it if it is `watched`."""
    made = []

    class Asking:
        def __init__(self, watched=True, **config):
            self.daemon = new_daemon()
            self.daemon.config.update(budgets={"session": {"requests": 1}}, onBudget="ask", **config)
            self.daemon.start()
            model.script("hello")
            self.daemon.session("s", "hi").text()
            self.client = self.connect() if watched else None

        def connect(self):
            made.append(Bridge(self.daemon.session_socket("s")))
            return made[-1]

        def opened(self):
            return self.event("opened")["request"]

        def event(self, action):
            return self.client.event("question", where=lambda event: event["data"]["action"] == action)["data"]

        def settle(self, request, **fields):
            return self.client.ask("approve", requestId=request["id"], hash=request["hash"], **fields)

        def requests(self):
            return self.daemon.inspect("s")["budgets"]["session"]["requests"]["used"]

    yield Asking
    for client in made:
        client.close()


def test_a_request_waits_until_it_is_allowed(asking, model):
    session = asking()
    stream = session.daemon.prompt("s", "go")
    request = session.opened()
    assert (request["tool"], request["rule"]) == ("model_request", "budget session.requests")
    arguments = {key: request["arguments"][key] for key in ("limit", "used", "allowed", "needed")}
    assert arguments == {"limit": "session.requests", "used": 1, "allowed": 1, "needed": 1}
    assert len(model.requests) == 1, "nothing is sent before somebody said yes"
    model.script("more")
    assert session.settle(request, allow=True)["allowed"] is True
    assert stream.text() == "more"
    assert session.requests() == 2
    # It was for one request.
    stream = session.daemon.prompt("s", "go")
    session.settle(session.opened(), allow=False, reason="not today")
    assert re.fullmatch(WORDS, stream.failure().text)[1] == "a person did not approve this call, and said: not today"
    assert (len(model.requests), session.requests()) == (2, 2)


def test_all_requests_of_the_session_are_allowed(asking, model):
    session = asking()
    model.script("one", "two")
    stream = session.daemon.prompt("s", "go")
    session.settle(session.opened(), allow=True, forSession=True)
    assert stream.text() == "one"
    assert session.daemon.prompt("s", "go").text() == "two"
    assert session.requests() == 3


def test_with_nobody_there_it_is_refused_at_once(asking, model):
    session = asking(watched=False)
    failed = session.daemon.prompt("s", "go").failure()
    assert failed.code == 402 and re.fullmatch(WORDS, failed.text)[1].endswith("nobody is there to give it")
    assert len(model.requests) == 1


def test_an_abort_ends_the_wait_and_allows_nothing_later(asking, model):
    session = asking()
    stream = session.daemon.prompt("s", "go")
    request = session.opened()
    session.client.ask("abort")
    assert stream.failure().word == "aborted"
    assert session.event("denied")["result"]["denied"]["by"] == "end"
    late = session.client.refusal("approve", requestId=request["id"], hash=request["hash"], allow=True)
    assert late.startswith("stale_answer")
    # The next prompt is asked about anew.
    stream = session.daemon.prompt("s", "go")
    session.settle(session.opened(), allow=False)
    stream.failure()
    assert len(model.requests) == 1


@pytest.mark.parametrize("signal", ["kill", "terminate"])
def test_the_question_is_open_after_a_restart(asking, model, signal):
    session = asking(unattended="wait", grace=0)
    stream = session.daemon.prompt("s", "go")
    before = session.opened()
    getattr(session.daemon.process, signal)()
    session.daemon.wait_exit()
    session.daemon.start()
    session.client = session.connect()
    (listed,) = eventually(lambda: session.client.ask("questions")["questions"], "it is asked again")
    assert (listed["request"]["id"], listed["request"]["hash"]) == (before["id"], before["hash"])
    model.script("more")
    session.settle(listed["request"], allow=True)
    assert stream.text().endswith("more")
    assert (len(model.requests), session.requests()) == (2, 2)
