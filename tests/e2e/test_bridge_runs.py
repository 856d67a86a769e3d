"""A run whose answer is streamed over the socket ends with its client, even if that leaves while the run is being made."""

import json
import os

import pytest

from support import proc
from support.bridge import Bridge
from support.model_script import Stall
from support.waiting import eventually

# Session files that are looked into for the one that a run goes on with. Their headers are as long as they may be, so that
# the daemon needs some seconds: a client that leaves is noticed after one.
OTHERS = 16


def client_threads(daemon):
    return [name for name in proc.threads(daemon.pid) if name.startswith("c") and name[1:2].isdigit()]


@pytest.fixture
def slow_run(daemon, model):
    """A request for a run that takes the daemon long to make."""
    model.script("hello")
    daemon.session("first", "hi").text()
    daemon.stop_session("first")
    (path,) = daemon.session_files()
    header = json.loads(path.read_text().splitlines()[0])
    other = path.with_name("other.jsonl")
    other.write_text(json.dumps({**header, "id": "other", "more": [0] * 300_000}, separators=(",", ":")) + "\n")
    for number in range(OTHERS):
        os.link(other, path.with_name(f"other-{number}.jsonl"))
    return {"type": "run", "id": 1, "body": "go", "cwd": str(daemon.cwd), "stream": True, "resume": header["id"]}


@pytest.fixture
def session(daemon, model):
    """A client of the only session, whose events the daemon's clients get as well."""
    model.script("hello")
    daemon.session("s", "hi").text()
    model.answer(lambda _request: ["begun", Stall()])
    with Bridge(daemon.session_socket("s")) as client:
        yield client


def test_a_client_that_leaves_takes_along_the_run_that_is_being_made(daemon, slow_run, session):
    with Bridge(daemon.socket) as client:
        client.send(slow_run)
        session.ask("emit", message="the request is read meanwhile")
    # Events that cannot be written make the daemon notice that the client is gone.
    for number in range(5):
        session.ask("emit", message=f"{number}")

    # When its threads are gone, nobody looks after its run any more.
    eventually(lambda: len(client_threads(daemon)) == 2, "the client's threads are gone")
    eventually(lambda: daemon.list()["runs"] == [], "the run is gone")
