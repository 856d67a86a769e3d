"""Pages of `list` on every wire: no row is left out, none comes twice, and every page fits into a message."""

import json

import pytest

from support.bridge import Bridge
from support.cli import one_line
from support.model_script import Gate
from test_two_daemons import Pair

MAX_PAYLOAD = 4096
NAMES = [f"s{number:02}" for number in range(16)]


def ids(page):
    return [row.get("sessionId") or row["session_id"] for row in page["sessions"] + page["runs"]]


def pages(ask, **fields):
    """All pages, asked for one after the other; every one but the last has `next`, the id of its last row."""
    found, after = [], None
    while True:
        page = ask(**fields, **({"after": after} if after is not None else {}))
        assert len(ids(page)) <= fields.get("limit", len(ids(page)))
        found.append(sorted(ids(page)))
        if "next" not in page:
            return found
        assert found[-1] and page["next"] == found[-1][-1]
        after = page["next"]


def flat(found):
    return [name for page in found for name in page]


def asking(bus, subject):
    """Asks for a page over NATS; the answer has to fit into a message of the server."""

    def ask(**fields):
        message = bus.ask(subject, {"sessionMode": "list", **fields})
        assert len(message.data) <= bus.connection.max_payload
        return json.loads(message.data)

    return ask


@pytest.fixture
def crowded(own_server, own_bus, new_daemon, model):
    """A daemon with sessions and runs whose list does not fit into one message."""
    server = own_server(f"max_payload: {MAX_PAYLOAD}")
    daemon = new_daemon(server.url, own_bus(server.url)).start()
    gate = Gate()
    model.answer(lambda request: ["begun", gate] if request.prompts[-1] == "hold" else "ok")
    for name in reversed(NAMES):
        daemon.session(name, "x").text()
    daemon.held = [daemon.run("hold") for _ in range(3)]
    for stream in daemon.held:
        stream.until("begun")
    yield daemon
    gate.open()


def test_pages_over_nats(crowded):
    ask = asking(crowded.bus, crowded.intake)
    found = pages(ask)
    assert len(found) > 2
    runs = set(flat(found)) - set(NAMES)
    assert flat(found) == sorted([*NAMES, *runs]) and len(runs) == 3
    assert flat(pages(ask, limit=3)) == flat(found) and len(pages(ask, limit=3)) == -(-19 // 3)
    # What is there no more, or never was, is a place in the order all the same.
    assert ids(ask(after="s03~", limit=2)) == ["s04", "s05"]
    assert ask(after="~") == {"sessions": [], "runs": []}


def test_pages_of_the_controller(crowded):
    ask = asking(crowded.bus, f"agents.list.pi-exec.{crowded.owner}.control")
    found = pages(ask)
    assert flat(found) == NAMES and len(found) > 2
    assert [len(page) for page in pages(ask, limit=5)] == [5, 5, 5, 1]


def test_pages_over_the_socket(crowded):
    with Bridge(crowded.socket) as client:

        def ask(**fields):
            return client.ask("list", **fields)

        found = pages(ask, limit=4)
        assert [len(page) for page in found] == [4, 4, 4, 4, 3]
        assert flat(found) == sorted(ids(ask()))


def test_the_client_fetches_all_pages(cli, new_bridge):
    daemon = new_bridge("daemon", role="daemon", sessionId=None)

    def page(request):
        left = [name for name in NAMES if name > request.get("after", "")]
        more = {"next": left[4]} if len(left) > 5 else {}
        return {"sessions": [{"sessionId": name} for name in left[:5]], "runs": [], **more}

    daemon.on("list", page)
    done = cli("sessions")
    assert done.returncode == 0 and ids(json.loads(done.stdout)["data"]) == NAMES
    assert "next" not in json.loads(done.stdout)["data"]
    assert len({request["id"] for request in daemon.requests}) == len(daemon.requests) == 4
    # A daemon whose pages do not end is not asked for ever.
    daemon.on("list", lambda _request: {"sessions": [], "runs": [], "next": "s00"})
    assert "do not end" in one_line(cli("sessions"))


def test_a_row_that_fits_into_no_message_is_named(own_server, own_bus, new_daemon, model, tmp_path):
    server = own_server("max_payload: 1024")
    daemon = new_daemon(server.url, own_bus(server.url))
    daemon.config["noPersist"] = True
    daemon.start()
    long = tmp_path / ("d" * 200) / ("e" * 200)
    long.mkdir(parents=True)
    model.answer(lambda _request: "ok")
    for name in ("a", "b"):
        daemon.session(name, "x", cwd=str(long)).text()
    ask = asking(daemon.bus, daemon.intake)
    assert flat(pages(ask)) == ["a", "b"]
    assert ask()["sessions"] == [{"sessionId": "a", "truncated": True}]


@pytest.mark.parametrize("fields", [{"limit": 0}, {"limit": "1"}, {"limit": 1.5}, {"after": 7}], ids=str)
def test_what_makes_no_page_is_refused(new_daemon, fields):
    daemon = new_daemon().start()
    ask = asking(daemon.bus, daemon.intake)
    assert ask(**fields)["error"] == "invalid_request"
    with Bridge(daemon.socket) as client:
        assert client.exchange("list", **fields)["code"] == "invalid_request"


def test_pages_of_two_daemons_of_one_owner(own_server, own_bus, new_daemon, model):
    server = own_server(f"max_payload: {MAX_PAYLOAD}")
    bus = own_bus(server.url)
    pair = Pair(lambda **options: new_daemon(server.url, bus, **options), bus)
    model.answer(lambda _request: "ok")
    for name in reversed(NAMES):
        pair.request("session", sessionId=name, body="hi").text()
    assert {pair.owner_of(name) for name in NAMES} == set(pair.daemons)
    ask = asking(bus, pair.intake)
    for asked in ({}, {}, {"limit": 3}, {"limit": 3}):
        found = pages(ask, **asked)
        assert flat(found) == NAMES and len(found) > 2
    hosts = {ask(after=name, limit=1)["sessions"][0]["host"] for name in ("", *NAMES[:-1])}
    assert len(hosts) == 2
    ask = asking(bus, f"agents.list.pi-exec.{pair.owner}.control")
    assert flat(pages(ask)) == flat(pages(ask, limit=1)) == NAMES
