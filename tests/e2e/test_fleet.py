"""Two hosts of one owner are one service: a session outlives its host, nothing is lost and nothing runs twice."""

import json
import signal
import time

import pytest

from support.bridge import Bridge
from support.bus import RESTART
from support.fleet import CARD, LONG_CARD, TOOLS
from support.model_script import Cut, Gate, Text, ToolCall
from support.waiting import eventually


def kill(daemon):
    daemon.signal(signal.SIGKILL)
    daemon.wait_exit()


def test_a_session_of_a_host_that_died_goes_on_elsewhere(fleet):
    fleet.start()
    fleet.model.answer(lambda request: request.prompts[-1].upper())
    assert fleet.session("s", "hello").text() == "HELLO"
    owner = fleet.owner_of("s")
    (other,) = fleet.others(owner)
    kill(owner)
    other.wait_log("session s started")
    assert fleet.say("s", "again") == "AGAIN"
    assert fleet.model.requests[-1].prompts == ["hello", "again"]


@pytest.mark.parametrize("answer", range(TOOLS + 1))
def test_a_turn_whose_host_dies_goes_on_elsewhere(fleet, answer):
    fleet.start()
    gate, stream = fleet.at_work(answer)
    kill(fleet.owner_of("s"))
    gate.open()
    text = stream.text()
    assert text.endswith("0 1 2 3 end"), text
    assert fleet.calls() == ["call0", "call1", "call2"]
    assert [mark.headers[RESTART] for _, mark in stream.restarts] == ["2"]


def test_a_tool_that_a_dead_host_had_begun_does_not_run_again(fleet):
    fleet.start()
    begun = fleet.cwd / "begun"
    # It outlives its daemon, which cannot end it any more, and ends by itself.
    tool = ToolCall("bash", {"command": f"echo once >> {fleet.log}; touch {begun}; sleep 5"}, id="slow")
    fleet.model.script([Text("first "), tool], "second")
    stream = fleet.session("s", "go")
    eventually(begun.exists, "the tool has begun")
    kill(fleet.owner_of("s"))
    assert stream.text().endswith("second")
    assert fleet.calls() == ["once"]
    ((result, _),) = fleet.model.requests[-1].tool_results
    assert "interrupted, outcome unknown" in result


def test_a_host_that_was_frozen_lets_go_of_what_others_have_gone_on_with(fleet):
    fleet.start()
    gate, stream = fleet.at_work(1)
    owner = fleet.owner_of("s")
    (other,) = fleet.others(owner)
    owner.signal(signal.SIGSTOP)
    other.wait_log("session s started")
    gate.open()
    assert stream.text().endswith("0 1 2 3 end")
    owner.signal(signal.SIGCONT)
    owner.wait_log("session s: it is the host")
    eventually(lambda: not fleet.has(owner, "s"), "the host that was frozen has forgotten it")
    assert fleet.calls() == ["call0", "call1", "call2"]
    fleet.model.answer(lambda request: request.prompts[-1].upper())
    assert fleet.say("s", "again") == "AGAIN"


def test_the_log_alone_decides_who_runs_what(fleet):
    """By its own clock the session is still the frozen host's when it goes on: only what others have stored tells it."""
    fleet.start(1, fleetCardTime=60)
    (owner,) = fleet.hosts
    gate, stream = fleet.at_work(1, events=True)
    other = fleet.host()
    other.start()
    owner.signal(signal.SIGSTOP)
    fleet.take_for_gone(owner)
    other.wait_log("session s started")
    gate.open()
    assert stream.text().endswith("0 1 2 3 end")
    calls = ["call0", "call1", "call2"]
    assert fleet.calls() == calls
    stops = fleet.bus.listen(f"agents.ev.{owner.owner}.s.bridge_stop")
    owner.signal(signal.SIGCONT)
    assert json.loads(stops.message().data)["data"]["reason"] == "moved"
    eventually(lambda: not fleet.has(owner, "s"), "the host that was frozen has forgotten it")
    assert fleet.calls() == calls
    heads = fleet.records("s")
    taken = next(at for at, head in enumerate(heads) if head["host"] == "h1")
    assert heads[taken]["kind"] == "own" and {head["host"] for head in heads[taken:]} == {"h1"}


def test_a_host_that_was_frozen_begins_nothing_anew(fleet):
    """Its request to the model fails when it goes on: it neither tells so nor asks again."""
    fleet.start()
    for host in fleet.hosts:
        host.write_agent_file("settings.json", {"retry": {"baseDelayMs": 0}})
    gates = [Gate(), Gate()]
    answers = iter([["begin1 ", gates[0], Cut()], ["begin2 ", gates[1], "end2"]])
    fleet.model.answer(lambda request: next(answers, "anew"))
    stream = fleet.session("s", "go", events=True)
    stream.until("begin1 ")
    owner = fleet.owner_of("s")
    owner.signal(signal.SIGSTOP)
    stream.until("begin2 ")
    told = fleet.bus.listen(f"agents.ev.{owner.owner}.s.>")
    gates[0].open()
    owner.signal(signal.SIGCONT)
    owner.wait_log("session s: it is the host")
    eventually(lambda: not fleet.has(owner, "s"), "the host that was frozen has forgotten it")
    gates[1].open()
    assert stream.text() == "begin1 begin2 end2"
    assert [mark.headers[RESTART] for _, mark in stream.restarts] == ["2"] and len(fleet.model.requests) == 2
    names = []
    while "bridge_stop" not in names:
        names.append(told.message().subject.rsplit(".", 1)[1])
    assert not {"auto_retry_start", "auto_retry_end"} & set(names), names


def test_a_host_that_was_frozen_says_nothing_of_what_is_anothers(fleet):
    """It has more of the model's answer to tell when it goes on, in the middle of the other one's."""
    fleet.start()
    gates = {}

    def answer(request):
        gate = gates[len(gates)] = Gate()
        return [f"begin{len(gates)} ", gate, f"end{len(gates)}"]

    fleet.model.answer(answer)
    stream = fleet.session("s", "go")
    stream.until("begin1 ")
    owner = fleet.owner_of("s")
    owner.signal(signal.SIGSTOP)
    stream.until("begin2 ")
    gates[0].open()
    owner.signal(signal.SIGCONT)
    owner.wait_log("session s: it is the host")
    gates[1].open()
    assert stream.text() == "begin1 begin2 end2"


def test_an_outage_moves_nothing_and_loses_nothing(fleet):
    fleet.start(fleetCardTime=LONG_CARD)
    gate, stream = fleet.at_work(1)
    owner = fleet.owner_of("s")
    fleet.server.stop()
    owner.wait_log("disconnected")
    gate.open()
    fleet.server.start()
    assert stream.text().endswith("1 2 3 end")
    assert fleet.calls() == ["call0", "call1", "call2"]
    assert fleet.has(owner, "s")
    assert not any("goes on here" in host.log_text() for host in fleet.hosts)


def test_an_outage_that_all_cards_expire_in_moves_nothing(fleet):
    """Nobody takes the other one for gone when the server is back without its cards, and what was sent meanwhile is worked on."""
    fleet.start()
    gate, stream = fleet.at_work(1)
    owner = fleet.owner_of("s")
    (other,) = fleet.others(owner)
    eventually(lambda: fleet.has_card(other), "both have shown their card")
    fleet.server.stop()
    gate.open()
    with Bridge(owner.session_socket("s")) as client:
        client.send({"type": "prompt", "id": "late", "message": "late"})
        time.sleep(CARD + 0.5)
        fleet.server.start()
        eventually(lambda: fleet.has_card(owner) and fleet.has_card(other), "both show their card again")
        shown = fleet.card_of(owner)
        assert "1 2 3 end" in stream.text() and not stream.restarts
        assert client.response("late")["success"]
        eventually(lambda: "late" in fleet.model.requests[-1].prompts, "it is worked on")
    # Twice as long after a reconnect as a card lives they look at each other; both renew their cards four times in that.
    eventually(lambda: fleet.card_of(owner) > shown + 2 * 2 * 4, "they have looked at each other")
    assert fleet.calls() == ["call0", "call1", "call2"]
    assert fleet.has(owner, "s")
    assert not any("goes on here" in host.log_text() for host in fleet.hosts)


def test_a_server_that_hangs_moves_nothing_and_loses_nothing(fleet):
    fleet.start(fleetCardTime=LONG_CARD)
    gate, stream = fleet.at_work(1)
    owner = fleet.owner_of("s")
    fleet.server.freeze()
    gate.open()
    # Longer than one try to store something takes.
    time.sleep(1.5)
    assert fleet.calls() == ["call0"]
    fleet.server.thaw()
    assert stream.text().endswith("1 2 3 end") and not stream.restarts
    assert fleet.calls() == ["call0", "call1", "call2"]
    assert fleet.has(owner, "s")
    assert not any("goes on here" in host.log_text() for host in fleet.hosts)


@pytest.mark.parametrize("ends", [False, True], ids=["it comes", "told to end"])
def test_a_host_that_starts_without_nats_waits_for_it(fleet, ends):
    host = fleet.host()
    fleet.server.stop()
    host.spawn()
    host.wait_log("this host waits for NATS")
    if ends:
        host.signal(signal.SIGTERM)
        assert host.wait_exit() == 0
        return
    fleet.server.start()
    host.wait_ready()
    fleet.cwd = host.cwd
    fleet.model.answer(lambda request: request.prompts[-1].upper())
    assert fleet.session("s", "hello").text() == "HELLO"


def test_a_session_that_cannot_move_waits_for_its_host(fleet):
    fleet.start()
    fleet.model.answer(lambda request: request.prompts[-1].upper())
    assert fleet.hosts[0].session("s", "hello").text() == "HELLO"
    owner = fleet.owner_of("s")
    (other,) = fleet.others(owner)
    kill(owner)
    other.wait_log("session s waits for its host")
    failure = fleet.refusal(other, "s")
    assert failure.word == "host_down" and owner.config["fleetHost"] in failure.text
    assert other.session("s", "hello").failure().word == "host_down"
    owner.start()
    owner.wait_log("session s started")
    assert fleet.say("s", "again") == "AGAIN"


def test_a_stopped_session_leaves_nothing(fleet):
    fleet.start(fleetCardTime=LONG_CARD)
    fleet.model.answer(lambda request: request.prompts[-1].upper())
    for body in ("one", "two"):
        assert fleet.session("s", body).text() == body.upper()
        assert fleet.hosts[0].stop_session("s") == {"ok": True, "sessionId": "s"}
        assert fleet.model.requests[-1].prompts == [body]


def test_a_restart_goes_on_at_the_same_host(fleet):
    fleet.start(1)
    (host,) = fleet.hosts
    gate, stream = fleet.at_work(1)
    kill(host)
    gate.open()
    host.start()
    assert stream.text().endswith("0 1 2 3 end")
    assert fleet.calls() == ["call0", "call1", "call2"]
    host.replace()
    fleet.model.answer(lambda request: request.prompts[-1].upper())
    assert host.prompt("s", "again").text() == "AGAIN"


def test_what_is_missing_is_told_at_the_start(fleet, own_server, new_daemon):
    host = fleet.host()
    host.config["server"] = own_server("").url
    done = host.run_to_end()
    assert done.returncode == 78 and "has no JetStream" in done.stderr, done.stderr
    del host.config["server"]
    done = host.run_to_end()
    assert done.returncode == 78 and '"fleet"' in done.stderr and "JetStream" in done.stderr, done.stderr
    fleet.hosts.clear()
    fleet.start(1)
    second = fleet.host(fleetHost="h0")
    done = second.run_to_end()
    assert done.returncode == 78 and "another host is called h0" in done.stderr, done.stderr


def test_a_full_stream_ends_what_cannot_be_stored(fleet):
    fleet.start(1)
    fleet.model.answer(lambda request: request.prompts[-1].upper())
    assert fleet.session("s", "hello").text() == "HELLO"
    info = fleet.bus.ask_json("$JS.API.STREAM.INFO.AGL")
    fleet.bus.ask_json("$JS.API.STREAM.UPDATE.AGL", {**info["config"], "max_bytes": info["state"]["bytes"]})
    (host,) = fleet.hosts
    assert host.prompt("s", "no room").failure().word == "storage_error"
    fleet.bus.ask_json("$JS.API.STREAM.UPDATE.AGL", {**info["config"], "max_bytes": -1})
    assert fleet.say("s", "room again") == "ROOM AGAIN"
    assert fleet.model.requests[-1].prompts == ["hello", "room again"]


def test_another_owner_takes_no_part(fleet, new_daemon):
    fleet.start(1)
    fleet.model.answer(lambda request: request.prompts[-1].upper())
    assert fleet.session("s", "hello").text() == "HELLO"
    stranger = new_daemon(fleet.server.url, bus=fleet.bus)
    stranger.config |= {"fleet": True, "fleetHost": "h0", "fleetCardTime": CARD}
    stranger.start()
    (host,) = fleet.hosts
    kill(host)
    assert fleet.bus.ask_json(stranger.intake, {"sessionMode": "list"})["sessions"] == []
    host.start()
    assert host.prompt("s", "again").text() == "AGAIN"


def test_a_session_that_was_stopped_in_an_outage_does_not_come_back(fleet):
    fleet.start()
    fleet.model.answer(lambda request: request.prompts[-1].upper())
    assert fleet.session("s", "hello").text() == "HELLO"
    owner = fleet.owner_of("s")
    fleet.server.stop()
    owner.wait_log("disconnected")
    with Bridge(owner.socket) as client:
        client.ask("stop", sessionId="s")
    eventually(lambda: not fleet.has(owner, "s"), "it is forgotten")
    fleet.server.start()
    subject = {"subjects_filter": f"ag.log.{owner.owner}.*"}

    def stored():
        try:
            return fleet.bus.ask_json("$JS.API.STREAM.INFO.AGL", subject, timeout=2)["state"].get("subjects")
        except AssertionError:  # The server is not there yet.
            return True

    eventually(lambda: not stored(), "nothing of it is stored any more")
