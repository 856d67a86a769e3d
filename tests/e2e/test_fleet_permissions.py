"""What the NATS user of a fleet's hosts has to be allowed to do: the example's configuration, and what doctor says of others."""

import json
import re
import signal
from pathlib import Path

import pytest

from support.waiting import eventually

EXAMPLE = (Path(__file__).parents[2] / "tests/examples/fleet.conf").read_text()
# What callers are told who shall send it again.
PASSING = ("moved", "host_down")


@pytest.fixture
def guarded(own_server, own_bus, new_daemon, monkeypatch, tmp_path):
    """Makes hosts on a server with the example's configuration, less what is left out of it."""
    monkeypatch.setenv("STORE_DIR", str(tmp_path / "store"))
    for user in ("daemon", "admin"):
        monkeypatch.setenv(f"{user.upper()}_PASSWORD", f"secret-of-{user}")

    def make(*names, without=()):
        config = EXAMPLE
        for subject in without:
            assert f'"{subject}"' in config, subject
            config = config.replace(f'"{subject}"', f'"not.{subject}"')
        server = own_server(config)
        bus = own_bus(server.url, user="admin", password="secret-of-admin")
        hosts = [new_daemon(server.url, bus=bus, owner="ada") for _ in names]
        for name, host in zip(names, hosts, strict=True):
            host.config |= {"user": "daemon", "password": "secret-of-daemon", "inboxPrefix": "_INBOX.daemon"}
            host.config |= {"fleet": True, "fleetHost": name, "fleetCardTime": 2}
        return server, hosts

    return make


def doctor(host):
    """The exit code, and what is said about fleets."""
    done = host.run_to_end("doctor", "--json")
    findings = json.loads(done.stdout)["findings"]
    assert all(finding.get("fix") for finding in findings if finding["health"] == "failure")
    return done.returncode, [(finding["health"], finding["text"]) for finding in findings if finding["about"] == "fleet"]


def test_the_example_allows_what_hosts_do(guarded, model):
    server, hosts = guarded("h0", "h1")
    for host in hosts:
        code, said = doctor(host)
        assert code == 0 and {health for health, _ in said} == {"ok"}, said
        host.start()
    model.answer(lambda request: request.prompts[-1].upper())
    stream = hosts[0].session("s", "hello", workspace="shared", events=True)
    assert stream.text() == "HELLO"
    owner = next(host for host in hosts if (host.state_dir / "s.json").exists())
    (other,) = (host for host in hosts if host is not owner)
    code, said = doctor(owner)
    assert code == 0 and any(f"the others that are there: {other.config['fleetHost']}" in text for _, text in said), said
    owner.signal(signal.SIGKILL)
    owner.wait_exit()
    other.wait_log("session s started")
    eventually(lambda: other.session_ids() == ["s"], "it is there")
    assert other.prompt("s", "again").text() == "AGAIN"
    other.signal(signal.SIGKILL)
    other.wait_exit()
    owner.start()
    eventually(lambda: owner.session_ids() == [], "what it had is another host's")
    # It has no host until the card has expired, and the prompt waits for that.
    assert owner.session("s", "waits").text() == "WAITS"
    other = owner
    assert other.stop_session("s") == {"ok": True, "sessionId": "s"}
    violations = re.findall(r".*Violation.*", server.log.read_text())
    assert not violations, violations


def subjects():
    """Those of the example that only hosts of a fleet publish to."""
    publish = EXAMPLE.split("publish: [")[1]
    found = re.findall(r'"((?:ag\.|\$KV|\$JS\.API\.STREAM|\$JS\.API\.DIRECT)[^"]*)"', publish)
    assert len(found) == 15, found
    return found


def test_what_is_not_allowed_is_named(guarded):
    missing = subjects()
    _, (host,) = guarded("h0", without=missing)
    code, said = doctor(host)
    assert code == 1
    named = [re.search('to "([^"]*)"', text)[1] for health, text in said if health == "failure"]
    assert {re.sub(r"(\.ada|\.ada\.day)\.\w+$", r"\1.*", subject) for subject in named} == set(missing), said
    assert host.bus.ask_json("$JS.API.STREAM.NAMES")["streams"] is None, "nothing was made"


def test_a_day_that_may_not_be_counted_ends_the_start(guarded):
    _, (host,) = guarded("h0", without=["ag.mem.ada.day.*"])
    host.config["budgets"] = {"day": {"requests": 5}}
    # So long it may be that servers only elect who leads.
    done = host.run_to_end(timeout=60)
    assert done.returncode == 78
    assert "budgets of a day cannot be counted with the other hosts: " in done.stderr, done.stderr


def test_answers_have_to_reach_the_callers_of_others(guarded):
    _, (host,) = guarded("h0", without=["_INBOX.>"])
    code, said = doctor(host)
    assert code == 0
    ((_, text),) = [found for found in said if found[0] == "warning"]
    assert "_INBOX.> may not be published to" in text


def test_streams_that_do_not_fit_are_named(guarded):
    _, (host,) = guarded("h0")
    bus = host.bus
    for name, subjects_, more in (("AGL", "ag.log.>", {"discard": "old", "allow_direct": True}), ("KV_AGH", "$KV.AGH.>", {})):
        config = {"name": name, "subjects": [subjects_], "storage": "file", "num_replicas": 1, **more}
        assert "error" not in bus.ask_json(f"$JS.API.STREAM.CREATE.{name}", config)
    host.config["fleetReplicas"] = 3
    code, said = doctor(host)
    assert code == 1
    wrong = [re.search("stream (\\S+) was made with another (\\S+)", text) for health, text in said if health == "failure"]
    named = {found.groups() for found in wrong if found}
    assert {("AGL", "discard"), ("AGL", "subjects"), ("KV_AGH", "allow_msg_ttl"), ("KV_AGH", "max_msgs_per_subject")} <= named, said
    assert ("warning", "stream AGL has 1 replicas, and fleetReplicas is 3") in said
    before = bus.ask_json("$JS.API.STREAM.INFO.AGL")["state"]["messages"]
    assert before == 0, "doctor stores nothing"
