"""A host that is killed, or replaced, at any time under callers on both wires. `scripts/chaos` does it longer."""

import os
from pathlib import Path

import pytest

from support.chaos import DEADLINE, Chaos
from support.daemon import BINARY

FAULTY = os.environ.get("NATS_PI_BRIDGE_FAULTY") or f"{BINARY}-fault"
KILLS = int(os.environ.get("CHAOS_KILLS", "5"))
SESSIONS = int(os.environ.get("CHAOS_SESSIONS", "3"))
REPLACED = int(os.environ.get("CHAOS_REPLACED", "3"))
SEED = os.environ.get("CHAOS_SEED", "1")

pytestmark = [pytest.mark.timeout(4 * DEADLINE + 10 * max(KILLS, REPLACED)), pytest.mark.any_server]


# Kills, or new processes, of one host with its sessions. Conversations are sent whole, and the longer they get, the more of the
# time between two kills goes into that instead of into what is tried here.
ROUND = 50


def rounds(count):
    """How often a host is killed or replaced before the next one comes, and the seed of that."""
    for done in range(0, count, ROUND):
        yield min(ROUND, count - done), f"{SEED}-{done}"


@pytest.mark.parametrize("at_a_write", [False, True], ids=["at any time", "at any write"])
def test_killed_again_and_again(new_daemon, model, at_a_write):
    if at_a_write and not Path(FAULTY).exists():
        pytest.skip("needs a build with the feature `fault`; scripts/test makes one")
    for kills, seed in rounds(KILLS):
        daemon = new_daemon(binary=FAULTY if at_a_write else BINARY)
        figures = Chaos(daemon, model, SESSIONS, seed).run(kills, at_a_write)
        print(figures)
        assert figures["ends"].get("done"), figures
        daemon.close()


def test_replaced_again_and_again(new_daemon, model):
    """Nobody hears an error, and of what does not reach a gate within `grace` one mark at most a time."""
    for times, seed in rounds(REPLACED):
        daemon = new_daemon()
        figures = Chaos(daemon, model, SESSIONS, seed).replace(times)
        print(figures)
        assert set(figures["ends"]) == {"done"} and figures["marks"] == 0, figures
        daemon.close()
