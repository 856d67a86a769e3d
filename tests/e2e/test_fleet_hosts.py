"""Whose a session is: what `list`, `inspect`, pi-bridge and `drain` say of hosts that are one service."""

import json

import pytest

from support.bridge import Bridge

OFFLINE = {"model": "offline/demo"}


@pytest.fixture
def hosts(new_daemon, own_server, own_bus, cli, tmp_path):
    """Two hosts, of which h0 has the session `s0` and h1 has `s1`."""
    server = own_server(f"jetstream {{ store_dir: '{tmp_path}/store' }}")
    bus, daemons = own_bus(server.url), []
    for name in ("h0", "h1"):
        owner = {"owner": daemons[0].owner} if daemons else {}
        daemon = new_daemon(server.url, bus=bus, **owner)
        daemon.config |= {"fleet": True, "fleetHost": name}
        daemon.environment["PI_BRIDGE_DIR"] = str(cli.directory)
        daemon.bridge_dir = cli.directory
        daemon.start()
        daemons.append(daemon)
    daemons[1].wait_log("as well")
    daemons[0].wait_log("as well")
    for number, daemon in enumerate(daemons):
        with Bridge(daemon.socket) as client:
            client.ask("session", sessionId=f"s{number}", body="@echo hi", cwd=str(daemon.cwd), **OFFLINE)
    return daemons


def test_whose_a_session_is(hosts, cli):
    first, second = hosts
    expected = [("s0", "h0"), ("s1", "h1")]
    rows = first.bus.ask_json(first.intake, {"sessionMode": "list"})["sessions"]
    assert [(row["sessionId"], row["host"]) for row in rows] == expected
    rows = first.bus.ask_json(f"agents.list.pi-exec.{first.owner}.control", {})["sessions"]
    assert [(row["session_id"], row["host"]) for row in rows] == expected
    assert first.bus.ask_json(f"{first.intake}.s1.inspect", {})["host"] == "h1"
    with Bridge(second.socket) as client:
        assert [row["host"] for row in client.ask("list")["sessions"]] == ["h1"]
    header, *table = cli("list").stdout.splitlines()
    place = header.split().index("HOST")
    assert sorted((row.split()[0], row.split()[place]) for row in table) == expected
    terminal = cli.terminal("top", columns=160, rows=12)
    terminal.await_row("^s0 .* h0 .*")
    terminal.press(b"/h1")
    terminal.await_row("^filter: h1_")
    terminal.await_screen(lambda rows: not any(row.startswith("s0") for row in rows), "only those of h1")
    terminal.await_row("^s1 .* h1 .*")


def test_a_host_is_drained_by_its_name(hosts):
    first, _ = hosts

    def drain(mode, **fields):
        return first.bus.ask_json(first.intake, {"sessionMode": mode, **fields})

    assert "h0, h1" in ", ".join(sorted(drain("drain")["message"].replace(",", "").split()[-2:]))
    for name in ("h1", "h0", "h1"):
        for mode in ("drain", "undrain"):
            answer = drain(mode, host=name)
            assert (answer["host"], answer["draining"]) == (name, mode == "drain")
    assert "h2" in json.dumps(drain("drain", host="h2"))


@pytest.mark.any_server
def test_a_host_that_is_alone_says_nothing_of_hosts(new_daemon, cli):
    daemon = new_daemon()
    daemon.environment["PI_BRIDGE_DIR"] = str(cli.directory)
    daemon.start()
    daemon.session("s", "@echo hi", **OFFLINE).text()
    (row,) = daemon.bus.ask_json(daemon.intake, {"sessionMode": "list"})["sessions"]
    assert "host" not in row
    assert "host" not in daemon.bus.ask_json(f"{daemon.intake}.s.inspect", {})
    assert "HOST" not in cli("list").stdout.split()
