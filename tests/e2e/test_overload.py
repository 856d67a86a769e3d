"""Ten callers of unequal load want ten times what the host does at a time: each has its share, and who finds no room is told."""

import time
from collections import Counter

import pytest

from support.model_script import Gate
from support.waiting import DEADLINE, eventually

CALLERS = [f"c{number}" for number in range(10)]
ROUNDS = 4


@pytest.mark.any_server
def test_nobody_has_more_than_its_share_and_refusals_come_soon(new_daemon, model):
    held, begun = Gate(), []

    def answer(request):
        begun.append(request.prompts[-1])
        return [held, "ok"] if len(begun) == 1 else "ok"

    model.answer(answer)
    # The first caller wants as much as the others together and gets a fourth of it; the others want four or five each.
    loads = {caller: ROUNDS + number % 2 for number, caller in enumerate(CALLERS)}
    loads[CALLERS[0]] = ROUNDS + 8
    daemon = new_daemon()
    daemon.config |= {"maxRunning": 1, "maxSessions": 1 + sum(loads.values())}
    daemon.start()
    streams = [daemon.run("first", **{"from": "somebody else"})]
    held.wait_reached()
    streams += [daemon.run(caller, **{"from": caller}) for caller, load in loads.items() for _ in range(load)]
    eventually(lambda: len(daemon.list()["runs"]) == len(streams), "all have come")
    # Ten times what is worked on and more waits, and there is room for no other.
    times = []
    for caller in CALLERS * 3:
        asked = time.monotonic()
        message = daemon.run(caller, **{"from": caller}).message(DEADLINE)
        times.append(time.monotonic() - asked)
        assert "busy" in message.headers["Nats-Service-Error"]
    assert sorted(times)[len(times) // 2] < 1, times
    held.open()
    assert {stream.text() for stream in streams} == {"ok"}
    assert len(begun) == len(streams)
    # As long as all of them want something, they are served in turns.
    served = Counter(begun[1 : 1 + ROUNDS * len(CALLERS)])
    assert served == dict.fromkeys(CALLERS, ROUNDS)
    # And nobody who wants less waits for the rest of those who want more.
    assert Counter(begun[1:]) == loads and begun[-7:] == [CALLERS[0]] * 7
