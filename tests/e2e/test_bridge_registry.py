"""The side channel's directory: who may use it, what is in it, and what stays when a daemon dies."""

import json
import os
import signal
import socket
import stat

import pytest

from support import proc
from support.bridge import Bridge, rows
from support.waiting import eventually

pytestmark = pytest.mark.any_server

OFFLINE = {"model": "offline/demo"}


def mode(path):
    return stat.S_IMODE(os.lstat(path).st_mode)


def make_session(daemon, session_id):
    daemon.session(session_id, "@echo hi", **OFFLINE).text()


def wait_rows(daemon, names):
    """Waits until the registry has exactly these rows; returns them."""
    return eventually(lambda: (found := rows(daemon.bridge_dir)).keys() == set(names) and found, f"rows {names}")


def wait_row(daemon, name, condition, what):
    return eventually(lambda: (row := rows(daemon.bridge_dir).get(name)) and condition(row) and row, what)


def test_rows_for_none_one_two_and_one_again(daemon):
    pid = daemon.pid
    front = f"{pid}.json"
    own = [f"{pid}-a.json", f"{pid}-b.json"]
    row = wait_rows(daemon, [front])[front]
    assert row["protocol"] == "pi-session-bridge.v1" and row["pid"] == pid and row["role"] == "daemon"
    assert row["hostname"] == socket.gethostname() and row["bridgeDir"] == str(daemon.bridge_dir)
    assert row["socketPath"] == row["daemonSocketPath"] == str(daemon.socket)
    assert "sessionId" not in row and row["startedAt"] <= row["updatedAt"]

    make_session(daemon, "a")
    row = wait_row(daemon, front, lambda row: row.get("sessionId") == "a", "the row stands for the only session")
    assert row["socketPath"] == str(daemon.socket) and "role" not in row
    assert row["cwd"] == str(daemon.cwd) and row["sessionName"] == "a"
    assert row["model"] == {"provider": "offline", "id": "demo", "name": "Offline demo (no model)"}
    assert rows(daemon.bridge_dir).keys() == {front}

    make_session(daemon, "b")
    found = wait_rows(daemon, [front, *own])
    found = wait_row(daemon, front, lambda row: row.get("role") == "daemon", "the row is the daemon's") and rows(
        daemon.bridge_dir
    )
    assert "sessionId" not in found[front]
    for name, session in zip(own, "ab"):
        row = found[name]
        assert row["sessionId"] == session and row["pid"] == pid
        assert row["socketPath"] == str(daemon.session_socket(session))
        assert row["daemonSocketPath"] == str(daemon.socket)

    daemon.stop_session("a")
    wait_rows(daemon, [front])
    row = wait_row(daemon, front, lambda row: row.get("sessionId") == "b", "the row stands for the one that is left")
    assert not daemon.session_socket("a").exists() and daemon.session_socket("b").exists()
    daemon.stop_session("b")
    wait_row(daemon, front, lambda row: row.get("role") == "daemon", "the row is the daemon's again")


def test_ten_sessions_have_a_row_and_a_socket_each(daemon):
    names = [f"s{n}" for n in range(10)]
    for name in names:
        make_session(daemon, name)
    wait_rows(daemon, [f"{daemon.pid}.json", *(f"{daemon.pid}-{name}.json" for name in names)])
    assert sorted(p.name for p in daemon.bridge_dir.glob("*.sock")) == sorted(
        [f"pi-{daemon.pid}.sock", *(f"pi-{daemon.pid}-{name}.sock" for name in names)]
    )
    for name in names:
        with Bridge(daemon.session_socket(name)) as client:
            assert client.hello["state"]["sessionId"] == name
            assert client.ask("get_state")["sessionId"] == name


def test_an_ephemeral_run_has_no_row(daemon):
    make_session(daemon, "named")
    front = f"{daemon.pid}.json"
    wait_row(daemon, front, lambda row: row.get("sessionId") == "named", "the session's row")
    stream = daemon.run("@stream 1000 every 50 ms", **OFFLINE)
    stream.chunk()
    run = daemon.list()["runs"][0]["sessionId"]
    assert rows(daemon.bridge_dir).keys() == {front}
    with Bridge(daemon.socket) as client:
        # Without a name the only named session is meant; by its id the run is reached.
        assert client.ask("get_state")["sessionId"] == "named"
        assert client.ask("get_state", session=run)["sessionId"] == run
        assert client.ask("abort", session=run)
    assert stream.failure().code == 500


def test_rows_follow_the_session(daemon, model):
    front = f"{daemon.pid}.json"
    make_session(daemon, "a")
    wait_row(daemon, front, lambda row: row.get("isIdle") is True, "idle")
    stream = daemon.prompt("a", "@stream 1000 every 50 ms")
    stream.chunk()
    row = wait_row(daemon, front, lambda row: row.get("isIdle") is False, "busy")
    assert row["lastReason"] == "agent_start"
    with Bridge(daemon.socket) as client:
        client.ask("abort")
        row = wait_row(daemon, front, lambda row: row.get("isIdle") is True, "idle again")
        assert row["lastReason"] == "agent_end"
        status = client.ask("prompt", message="/bridge:status")
        assert status["registryPath"] == str(daemon.bridge_dir / "instances" / front)
        assert status["socketPath"] == str(daemon.session_socket("a"))
        wait_row(daemon, front, lambda row: row["lastReason"] == "bridge:status", "the status was written")


def test_readers_never_see_half_a_row(daemon):
    """Rows are replaced in one step, also while they are rewritten all the time."""
    for name in "ab":
        make_session(daemon, name)
    wait_rows(daemon, [f"{daemon.pid}.json", f"{daemon.pid}-a.json", f"{daemon.pid}-b.json"])
    with Bridge(daemon.session_socket("a")) as client:
        for _ in range(100):
            client.ask("prompt", message="/bridge:status")
            for name, row in rows(daemon.bridge_dir).items():
                assert row["protocol"] == "pi-session-bridge.v1", name
    # One may be there while a row is being written.
    eventually(lambda: not list(daemon.bridge_dir.glob("instances/*.tmp")), "no temporary file stays")


def test_everything_is_private(daemon):
    make_session(daemon, "a")
    make_session(daemon, "b")
    wait_rows(daemon, [f"{daemon.pid}.json", f"{daemon.pid}-a.json", f"{daemon.pid}-b.json"])
    assert mode(daemon.bridge_dir) == mode(daemon.bridge_dir / "instances") == 0o700
    for path in daemon.bridge_dir.glob("**/*.*"):
        # A row is written to a temporary name first, which may be gone by now.
        if path.suffix != ".tmp":
            assert mode(path) == 0o600, path


def test_a_directory_that_is_open_to_others_is_tightened(new_daemon):
    daemon = new_daemon()
    (daemon.bridge_dir / "instances").mkdir(parents=True)
    for path in (daemon.bridge_dir, daemon.bridge_dir / "instances"):
        path.chmod(0o777)
    daemon.start()
    assert mode(daemon.bridge_dir) == mode(daemon.bridge_dir / "instances") == 0o700
    assert Bridge(daemon.socket).ask("ping")["protocol"] == "pi-session-bridge.v1"


@pytest.mark.parametrize("what", ["symlink", "file", "too long"])
def test_an_unsafe_directory_that_was_named_is_fatal(new_daemon, what):
    daemon = new_daemon()
    if what == "symlink":
        target = daemon.bridge_root / "elsewhere"
        target.mkdir()
        daemon.bridge_dir.symlink_to(target)
    elif what == "file":
        daemon.bridge_dir.write_text("")
    else:
        daemon.environment["PI_BRIDGE_DIR"] = str(daemon.bridge_root / ("x" * 100))
    done = daemon.run_to_end()
    assert done.returncode == 1
    assert "no side channel" in done.stderr and str(daemon.bridge_root) in done.stderr


def test_an_unsafe_default_directory_costs_only_the_side_channel(new_daemon):
    daemon = new_daemon()
    del daemon.environment["PI_BRIDGE_DIR"]
    daemon.environment["TMPDIR"] = str(daemon.bridge_root)
    target = daemon.bridge_root / "elsewhere"
    target.mkdir()
    (daemon.bridge_root / f"pi-session-bridge-{os.getuid()}").symlink_to(target)
    daemon.start()
    daemon.wait_log("there is no side channel: .* is a symbolic link")
    assert daemon.run("@echo still here", **OFFLINE).text() == "[offline/demo: no model, a built-in script]\nstill here"
    assert list(target.iterdir()) == []


def test_somebody_elses_directory_is_refused(new_daemon):
    if os.getuid() != 0:
        pytest.skip("only root can make a directory of another user")
    daemon = new_daemon()
    daemon.bridge_dir.mkdir()
    os.chown(daemon.bridge_dir, 12345, 12345)
    done = daemon.run_to_end()
    assert done.returncode == 1 and "belongs to another user (uid 12345)" in done.stderr


def test_clients_of_other_users_are_refused(daemon):
    """The directory keeps them out; should they come in nevertheless, the socket asks who they are."""
    if os.getuid() != 0:
        pytest.skip("only root can become another user")
    daemon.bridge_dir.chmod(0o755)
    daemon.bridge_root.chmod(0o755)
    daemon.socket.chmod(0o777)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setuid(12345)
            client = socket.socket(socket.AF_UNIX)
            client.connect(str(daemon.socket))
            client.settimeout(10)
            os.write(writer, client.makefile("rb").readline())
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    line = json.loads(os.fdopen(reader, "rb").read())
    assert line["type"] == "bridge_error" and "owner" in line["error"]
    daemon.wait_log("a client of user 12345 .* was refused")
    assert Bridge(daemon.socket).ask("ping")


def test_the_side_channel_can_be_switched_off(new_daemon):
    daemon = new_daemon()
    daemon.config["noBridge"] = True
    assert daemon.values()["bridgeDir"] == "off"
    daemon.start()
    assert not daemon.bridge_dir.exists()


def test_a_killed_daemon_leaves_nothing_that_outlives_the_next_start(daemon, new_daemon):
    for name in "ab":
        make_session(daemon, name)
    wait_rows(daemon, [f"{daemon.pid}.json", f"{daemon.pid}-a.json", f"{daemon.pid}-b.json"])
    dead = daemon.pid
    other = new_daemon()
    other.environment["PI_BRIDGE_DIR"] = str(daemon.bridge_dir)
    other.bridge_dir = daemon.bridge_dir
    other.start()
    # Both live: nothing of the first is touched.
    eventually(lambda: f"{other.pid}.json" in rows(daemon.bridge_dir), "the second has its row")
    assert f"{dead}-a.json" in rows(daemon.bridge_dir)
    foreign = daemon.bridge_dir / "instances" / "notes.txt"
    foreign.write_text("mine")
    daemon.signal(signal.SIGKILL)
    daemon.wait_exit()
    other.signal()
    other.wait_exit()
    assert f"{dead}.json" in rows(daemon.bridge_dir), "a killed process cannot clean up"
    daemon.start()
    # The sessions are back; their rows and sockets are those of the new process.
    wait_rows(daemon, [f"{daemon.pid}.json", f"{daemon.pid}-a.json", f"{daemon.pid}-b.json"])
    eventually(lambda: not list(daemon.bridge_dir.glob(f"pi-{dead}*")), "its sockets are gone")
    with Bridge(daemon.session_socket("a")) as client:
        assert client.ask("get_state")["sessionId"] == "a"
    assert foreign.read_text() == "mine"
    assert Bridge(daemon.socket).ask("ping")


def test_a_daemon_that_ends_leaves_nothing(daemon):
    for name in "ab":
        make_session(daemon, name)
    wait_rows(daemon, [f"{daemon.pid}.json", f"{daemon.pid}-a.json", f"{daemon.pid}-b.json"])
    daemon.signal()
    assert daemon.wait_exit() == 0
    assert [path for path in daemon.bridge_dir.glob("**/*") if path.is_file() or path.is_socket()] == []


def test_a_long_session_name_gets_a_shorter_socket(daemon):
    name = "x" * 64
    make_session(daemon, name)
    client = Bridge(daemon.socket)
    path = client.ask("prompt", session=name, message="/bridge:status")["socketPath"]
    assert len(path) <= 107
    with Bridge(path) as session:
        assert session.ask("get_state")["sessionId"] == name


def test_idle_sessions_cost_little(daemon):
    """A session's socket and row take no thread: there is one per session, and those that the daemon has anyway."""
    for n in range(20):
        make_session(daemon, f"s{n}")

    def idle():
        # The thread of a prompt ends when nobody has had more work for it.
        names = proc.threads(daemon.pid)
        others = [name for name in names if not name.startswith("s-")]
        return len(names) - len(others) == 20 and not any(name == "idle" or name.startswith("t-") for name in others)

    eventually(idle, "only the sessions' own threads are left")
    assert len(proc.threads(daemon.pid)) <= 20 + 6
