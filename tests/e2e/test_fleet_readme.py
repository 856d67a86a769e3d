"""README's two hosts on one machine: its commands start them, and what is shown of them is what happens."""

import json
import os
import signal
import subprocess

import pytest

from support.cli import BINARY as CLI
from support.daemon import BINARY
from support.documents import blocks, play
from support.waiting import eventually

CARD = ("--fleet-card-time", "2")


@pytest.fixture
def commands(new_daemon, own_server, tmp_path):
    """Starts what README says with other places, and ends all of it. Returns what is replaced, the environment, and the log."""
    # Where servers have no JetStream this is as far as it goes.
    server = own_server(f"jetstream {{ store_dir: '{tmp_path}/other' }}")
    server.stop()
    home = new_daemon()
    home.write_config()
    ((_, script),) = [found for found in blocks("README.md", "bash") if "--fleet" in found[1]]
    address, log = server.address, tmp_path / "log"
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, program in {"nats-server": server.program, "nats-pi-bridge": BINARY, "pi-bridge": CLI}.items():
        (programs / name).symlink_to(program)
    environment = {
        **home.environment, "HOME": str(home.home), "PATH": f"{programs}:{os.environ['PATH']}",
    }
    replaced = [("127.0.0.1:4222", address), ("--addr 127.0.0.1", f"--addr 127.0.0.1 --port {server.port}")]
    replaced.append(("--fleet ", f"--fleet {' '.join(CARD)} "))
    for old, new in replaced:
        assert old in script
        script = script.replace(old, new)
    with log.open("w") as out:
        group = subprocess.Popen(
            ["bash", "-c", f"{script}\nwait"], env=environment, cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=out,
            stderr=subprocess.STDOUT, start_new_session=True,
        )
    yield replaced[:1], environment, log, server.url
    os.killpg(group.pid, signal.SIGKILL)
    group.wait(timeout=10)


def test_a_session_outlives_its_host_as_shown(commands, own_bus, model):
    replaced, environment, log, url = commands
    eventually(lambda: log.read_text().count("this is the host") == 2, "both take part")
    created, asked = (body for _, body in blocks("README.md", "console")[2:])
    model.script("I will.", "417")
    play(created, environment, replaced)
    bus = own_bus(url)

    def host():
        try:
            return bus.ask_json("agents.pi-exec.team.plan.inspect", timeout=1).get("host")
        except AssertionError:  # Nobody is there, or whoever was asked died before it answered.
            return None

    first = host()
    rows = json.loads(subprocess.run([CLI, "list", "--json"], env=environment, capture_output=True, timeout=20).stdout)
    (pid,) = (row["pid"] for row in rows if row.get("sessionId") == "plan")
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: host() not in (None, first), "the other one has it")
    play(asked, environment, replaced)
    assert model.requests[-1].prompts == ["Remember 417", "What was it?"]
