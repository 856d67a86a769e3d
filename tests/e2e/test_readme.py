"""The commands that the README tells a new user to type do what it says."""

import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from support.cli import BINARY as CLI

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = [textwrap.dedent(block) for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL)]


def block(text):
    found = [block for block in BLOCKS if text in block]
    assert len(found) == 1, f"{text!r} is in {len(found)} blocks"
    return found[0]


def bash(script, **environment):
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], cwd=ROOT, env={**os.environ, **environment},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=50,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_key_file_is_as_the_daemon_wants_it(new_daemon, model):
    daemon = new_daemon()
    bash(block("auth.json"), HOME=str(daemon.home))
    path = daemon.agent_dir / "auth.json"
    assert json.loads(path.read_text())["anthropic"]["type"] == "api_key"
    assert path.stat().st_mode & 0o777 == 0o600
    # The key counts: without a model in the request or the configuration, the provider's default is chosen.
    del daemon.config["defaultModel"]
    (daemon.agent_dir / "models.json").write_text(json.dumps({"providers": {"anthropic": {"baseUrl": model.url}}}))
    daemon.start()
    model.script("hello")
    assert daemon.run("hi").text() == "hello"
    assert model.requests[0].model.startswith("claude-")
    assert "warning" not in daemon.log_text()


def test_the_requests_by_hand(daemon, nats_server, model):
    model.script("waves and wires", "I picked 417.", "417")
    script = block("agents.pi-exec.$USER").replace("127.0.0.1:4222", nats_server.address)
    assert nats_server.address in script
    printed = bash(script, USER=daemon.owner)
    one, two, three, listing, inspection, stopped = printed.strip().split("\n")
    assert [one, two, three] == ["waves and wires", "I picked 417.", "417"]
    assert [row["sessionId"] for row in json.loads(listing)["sessions"]] == ["demo"]
    assert json.loads(inspection)["messages"] == 4
    assert json.loads(stopped) == {"ok": True, "sessionId": "demo"}


def test_the_side_channel_by_hand(daemon):
    bridge = Path(CLI).parent
    printed = bash(block("pi-bridge run"), PATH=f"{bridge}:{os.environ['PATH']}", PI_BRIDGE_DIR=str(daemon.bridge_dir))
    assert "hello" in printed and '"message_end"' in printed and '"ok": true' in printed


def test_the_controller_by_hand(daemon, nats_server):
    script = block("agents.spawn").replace("127.0.0.1:4222", nats_server.address)
    spawned, listed, stopped = bash(script, USER=daemon.owner).strip().split("\n")
    assert json.loads(spawned)["session_id"] == "worker"
    assert [row["session_id"] for row in json.loads(listed)["sessions"]] == ["worker"]
    assert json.loads(stopped)["ok"] is True


def test_a_client_of_the_agent_protocol(daemon, nats_server, model):
    model.script("ready", "A daemon.")
    daemon.session("worker", "hi").text()
    (script,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    program = [sys.executable, "-c", script.replace("127.0.0.1:4222", nats_server.address)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=50)
    assert done.stdout == "A daemon.", done.stderr


def test_the_daemon_starts_as_shown(new_daemon):
    """The block that starts it is a build and a program; the program is what the tests run anyway."""
    assert block("target/release/nats-pi-bridge").split() == ["cargo", "build", "--release", "target/release/nats-pi-bridge"]
    shown = re.search(r"```\n( *pi-exec: .*?)```", README, re.DOTALL)[1]
    daemon = new_daemon(bus=None, owner="yourname")
    del daemon.config["server"]
    daemon.spawn("--listen", "127.0.0.1:0")
    daemon.wait_log("intake registered")

    def general(line):
        return re.sub(r":\d+", ":PORT", re.sub(r"/\S+\.sock", "SOCKET", line)).strip()

    assert [general(line) for line in daemon.log] == [general(line) for line in shown.strip().splitlines()]


@pytest.mark.parametrize("script", ["quickstart", "test", "static"])
def test_ci_runs_the_scripts(script):
    assert f"scripts/{script}" in README
    assert re.search(rf"^[^#]*scripts/{script}\b", (ROOT / ".ci/run").read_text(), re.MULTILINE)
