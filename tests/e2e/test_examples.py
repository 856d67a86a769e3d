"""The examples for users do what they say. The configuration of nats-server has a file of its own: test_permissions.py."""

import configparser
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.daemon import BINARY
from support.model_script import Gate

EXAMPLES = Path(__file__).parents[1] / "examples"
REQUEST = Path(__file__).parents[2] / "scripts/nats-request"
LABEL = "[offline/demo: no model, a built-in script]"


def run(*command, **environment):
    return subprocess.run(
        [str(word) for word in command], env={**os.environ, **environment},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=50,
    )


def python(daemon, nats_server, *prompts, model="offline/demo"):
    options = ["--server", nats_server.url, "--owner", daemon.owner, "--model", model]
    return run(sys.executable, EXAMPLES / "client.py", *options, *prompts)


def shell(daemon, nats_server, *prompts, model="offline/demo"):
    named = {"NATS_ADDRESS": nats_server.address, "OWNER": daemon.owner, "MODEL": model}
    return run(EXAMPLES / "client.sh", *prompts, **named)


@pytest.fixture
def without_nats(tmp_path, monkeypatch):
    """A path on which there is no nats command, so that the script takes what every machine has."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("bash", "dirname", "id"):
        (folder / name).symlink_to(shutil.which(name))
    (folder / "env").symlink_to("/usr/bin/env")
    monkeypatch.setenv("PATH", str(folder))


def test_the_python_client(daemon, nats_server):
    done = python(daemon, nats_server, "@echo hello", "@recall")
    assert done.returncode == 0, done.stderr
    run, first, second, facts = done.stdout.split(LABEL)[1:3] + done.stdout.split(LABEL)[3].rsplit("\n", 2)[:2]
    assert (run.strip(), first.strip()) == ("hello", "hello")
    assert second.strip() == "@echo hello"
    assert facts.startswith("offline/demo answered 2 prompts with ")
    assert daemon.list() == {"sessions": [], "runs": []}


def test_the_python_client_shows_the_text_as_it_comes(daemon, nats_server, model):
    """Two pieces reach its output one after the other: the second one is not sent before the first is seen."""
    gate = Gate()
    model.script(["first ", gate, "second"], "in a session", "again")
    options = ["--server", nats_server.url, "--owner", daemon.owner]
    process = subprocess.Popen(
        [sys.executable, EXAMPLES / "client.py", *options, "go", "go on"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )
    try:
        assert process.stdout.read(len("first ")) == "first "
        gate.open()
        rest, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 0, errors
    assert rest.startswith("second\nin a session\nagain\n")


def test_the_python_client_tells_failures(daemon, nats_server):
    done = python(daemon, nats_server, "@fail auth", "")
    assert done.returncode == 1 and "error: 500 " in done.stderr and "Traceback" not in done.stderr
    done = python(daemon, nats_server, "x", "", model="nobody/nothing")
    assert done.returncode == 1 and "session_create_failed" in done.stderr
    daemon.owner = "nobody-is-called-so"
    done = python(daemon, nats_server, "x", "")
    assert done.returncode == 1 and "nobody answers" in done.stderr


def test_the_shell_script(daemon, nats_server, without_nats):
    done = shell(daemon, nats_server, '@echo she said "hi"\\\n@echo and left', "@recall")
    assert done.returncode == 0, done.stderr
    answer = f'{LABEL}\nshe said "hi"\\\nand left\n'
    assert done.stdout.startswith(f"== one run\n{answer}== a session\n{answer}{LABEL}\n")
    assert done.stdout.rstrip().splitlines()[-1].startswith('{"ok":true,"sessionId":"example-')
    assert daemon.list() == {"sessions": [], "runs": []}


def test_the_shell_script_types_what_users_of_the_nats_command_type(daemon, nats_server, without_nats, tmp_path):
    """A stand-in for the nats command takes its words apart, strictly, and asks for the same."""
    stand_in = tmp_path / "bin/nats"
    stand_in.write_text(f"""#!/usr/bin/env bash
case "$*" in
    "--server $2 req $4 $5 --raw --wait-for-empty --timeout 120s") exec "{REQUEST}" "$2" "$4" "$5" ;;
    "--server $2 req $4 $5 --raw --timeout 30s") exec "{REQUEST}" --one "$2" "$4" "$5" ;;
esac
echo "nats: $*" >&2
exit 64
""")
    stand_in.chmod(0o755)
    done = shell(daemon, nats_server, "@echo hello", "@recall")
    assert done.returncode == 0, done.stderr
    assert "hello" in done.stdout and '{"ok":true' in done.stdout


def test_the_unit_of_systemd(tmp_path):
    text = (EXAMPLES / "nats-pi-bridge.service").read_text()
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str
    unit.read_string(text)
    command = unit["Service"]["ExecStart"].split()
    # The daemon knows its flags; %H is the name of the host.
    done = run(BINARY, *[word.replace("%H", "Edge-7.example") for word in command[1:]], "--check", HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "subject = agents.pi-exec.edge-7-example " in done.stdout
    values = dict(line.split(" = ", 1) for line in done.stdout.splitlines())
    grace = int(values["grace"].split()[0])
    assert int(unit["Service"]["TimeoutStopSec"]) > grace
    assert unit["Service"]["RestartPreventExitStatus"].split() == ["2", "73", "78"]
    if not (analyze := shutil.which("systemd-analyze")):
        pytest.skip("no systemd-analyze on this machine")
    copy = tmp_path / "nats-pi-bridge.service"
    copy.write_text(text.replace(command[0], BINARY))
    done = run(analyze, "verify", "--man=no", copy)
    complaints = [line for line in done.stderr.splitlines() if copy.name in line]
    assert done.returncode == 0 and not complaints, done.stderr
