"""Hosts of one owner that are killed, frozen, drained and cut off under callers on both wires. `scripts/chaos --fleet` does it longer."""

import os

import pytest

from support.chaos import DEADLINE
from support.fleet_chaos import HOSTS, FleetChaos, Servers

# How often what happens. The short form has what takes least, with one server.
SHORT = {"kill": 1, "freeze": 1, "drain": 1, "terminate": 0, "outage": 0, "leader": 0}
COUNTS = {what: int(os.environ.get(f"CHAOS_{what.upper()}S", count)) for what, count in SHORT.items()}
SERVERS = [int(count) for count in os.environ.get("CHAOS_SERVERS", "1").split()]
SESSIONS = int(os.environ.get("CHAOS_SESSIONS", "3"))
TURNS = int(os.environ.get("CHAOS_TURNS", "0"))
SEED = os.environ.get("CHAOS_SEED", "1")
# How long a host's card lives, seconds, with one server and with three, which elect who leads.
CARDS = {1: int(os.environ.get("CHAOS_CARD", "2")), 3: 12}

pytestmark = pytest.mark.timeout(4 * DEADLINE + 60 * sum(COUNTS.values()))


@pytest.mark.parametrize("servers", SERVERS)
def test_hosts_that_come_and_go(servers, new_daemon, own_bus, model, tmp_path):
    made = Servers(tmp_path, servers)
    try:
        bus = own_bus(made.urls)
        alone = new_daemon(",".join(made.urls), bus=bus)
        hosts = []
        for number in range(HOSTS):
            hosts.append(new_daemon(",".join(made.urls), bus=bus, owner=hosts[0].owner if hosts else None))
            hosts[-1].config |= {
                "fleet": True, "fleetHost": f"h{number}", "fleetReplicas": servers, "fleetCardTime": CARDS[servers], "heartbeatInterval": 1,
            }
        counts = COUNTS | ({"leader": 0} if servers == 1 else {})
        figures = FleetChaos(made, hosts, model, SESSIONS, SEED).run(counts, alone, TURNS)
        print(f"{servers} server(s): {figures}")
        assert figures["ends"].get("done"), figures
    finally:
        for daemon in [*hosts, alone]:
            daemon.close()
        made.stop()
