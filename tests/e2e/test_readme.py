"""README and the references do what they say: every block of theirs is run, and their tables are held against the source."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from support import documents
from support.bridge import Bridge
from support.cli import BINARY as CLI
from support.documents import DOCUMENTS, ROOT, blocks

# The bash blocks, by words that only one of them has; the tests below say what becomes of each.
BASH = [
    "install -D", "scripts/quickstart", "auth.json", "nats-pi-bridge\n", "Write a haiku", "pi-bridge send --stream",
    ".ci/run", "--fleet",
]
# Words of this kind begin a block; those without one show what is printed.
LANGUAGES = {"bash", "console", "jsonl", "json", "python", ""}


def block(words):
    found = [body for name in DOCUMENTS for _, body in blocks(name, "bash") if words in body]
    assert len(found) == 1, f"{words!r} is in {len(found)} blocks"
    return found[0]


def bash(script, **environment):
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], cwd=ROOT, env={**os.environ, **environment},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=50,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_block_is_one_that_is_run():
    for name in DOCUMENTS:
        fences = re.findall(r"^ *```(.*)$", documents.text(name), re.MULTILINE)
        assert {fence.split(" ")[0] for fence in fences[::2]} <= LANGUAGES, name
        assert not any(fences[1::2]), f"{name}: a block is not closed"
        for _, body in blocks(name, "bash"):
            known = [words for words in BASH if words in body]
            assert known, f"{name}: nobody runs\n{body}"
        for _, body in blocks(name, "json"):
            json.loads(body)
    for words in BASH:
        block(words)


def test_the_documents_are_all_that_there_are():
    found = {path.relative_to(ROOT) for path in ROOT.rglob("*.md")}
    assert {str(path) for path in found if "target" not in path.parts} == set(DOCUMENTS)


def headings(name):
    """The anchors of a document, as those who show Markdown make them."""
    found = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", documents.text(name), flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in found}


def test_links_lead_somewhere():
    for name in DOCUMENTS:
        for path, anchor in re.findall(r"\]\(([^):#]*)(?:#([^)]+))?\)", documents.text(name)):
            target = (ROOT / name).parent / path if path else ROOT / name
            assert target.exists(), f"{name}: there is no {path}"
            if anchor:
                assert anchor in headings(target.resolve().relative_to(ROOT)), f"{name}: {path} has no #{anchor}"


# What is typed.


@pytest.fixture
def environment(daemon):
    """For whoever types: the daemon's user, with the programs of the documents on the path."""
    return {
        **os.environ, "USER": daemon.owner, "HOME": str(daemon.home), "PI_BRIDGE_DIR": str(daemon.bridge_dir),
        "PATH": f"{Path(CLI).parent}:{os.environ['PATH']}",
    }


def test_readmes_transcripts(daemon, nats_server, model, environment):
    # What comes after them is of several hosts: test_fleet_readme.py.
    over_nats, over_sockets = (body for _, body in blocks("README.md", "console")[:2])
    model.script("I picked 417.", "417", "I will.", "0815")
    documents.play(over_nats, environment, [("127.0.0.1:4222", nats_server.address)])
    documents.play(over_sockets, environment)
    assert daemon.list()["sessions"] == []
    # What the transcripts make of it: both sessions remembered what was said first.
    assert [len(request.prompts) for request in model.requests] == [1, 2, 1, 2]


def test_the_transcripts_of_the_protocol_on_nats(own_server, own_bus, new_daemon):
    # On a server of its own, as others may have an ada as well.
    server = own_server()
    daemon = new_daemon(server.url, own_bus(server.url), owner="ada")
    daemon.config["defaultModel"] = "offline/demo"
    daemon.start()
    found = blocks("src/service/PROTOCOL.md", "console")
    assert len(found) >= 6
    for _, body in found:
        documents.play(body, dict(os.environ), [("127.0.0.1:4222", server.address)])


def test_the_conversations_over_sockets(new_daemon):
    daemon = new_daemon()
    daemon.config["defaultModel"] = "offline/demo"
    daemon.start()
    daemon.session("demo", "@echo ready").text()
    found = blocks("src/socket/PROTOCOL.md", "jsonl")
    assert len(found) >= 6
    for where, body in found:
        path = {"demo": daemon.session_socket("demo"), "daemon": daemon.socket}[where]
        with Bridge(path) as bridge:
            documents.converse(body, bridge)


def usual(log):
    """Lines of a log without what only root is told."""
    return [line for line in log if "this daemon is root" not in line]


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
    assert "warning" not in "".join(usual(daemon.log))


def test_the_first_prompt(daemon, model, environment):
    model.script("waves and wires")
    assert bash(block("Write a haiku"), **environment) == "waves and wires\n"
    assert model.requests[0].prompts == ["Write a haiku about NATS"]
    assert daemon.list() == {"sessions": [], "runs": []}


def test_the_subcommands_by_hand(daemon, environment):
    printed = bash(block("pi-bridge send --stream"), **environment)
    assert "hello" in printed and '"message_end"' in printed and '"ok": true' in printed


def test_a_client_of_the_agent_protocol(daemon, nats_server, model):
    model.script("ready", "A daemon.")
    daemon.session("worker", "hi").text()
    ((_, script),) = blocks("src/service/PROTOCOL.md", "python")
    program = [sys.executable, "-c", script.replace("127.0.0.1:4222", nats_server.address)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=50)
    assert done.stdout == "A daemon.", done.stderr


def test_the_daemon_starts_as_shown(new_daemon):
    assert block("nats-pi-bridge\n").split() == ["nats-pi-bridge"]
    shown = re.search(r"```\n( *pi-exec: .*?)```", documents.text("README.md"), re.DOTALL)[1]
    daemon = new_daemon(bus=None, owner="yourname")
    del daemon.config["server"]
    daemon.spawn("--listen", "127.0.0.1:0")
    daemon.wait_log("intake registered")

    def general(line):
        return re.sub(r":\d+", ":PORT", re.sub(r"/\S+\.sock", "SOCKET", line)).strip()

    assert [general(line) for line in usual(daemon.log)] == [general(line) for line in shown.strip().splitlines()]


def test_what_takes_a_build_is_run_by_ci():
    ci = (ROOT / ".ci/run").read_text()
    for script in ("quickstart", "test", "static"):
        assert re.search(rf"^[^#]*scripts/{script}\b", ci, re.MULTILINE)
    assert ".ci/run" in (ROOT / ".github/workflows/ci.yml").read_text()
    first, second = block("install -D").splitlines()
    assert first == "scripts/static"
    out = (ROOT / "scripts/static").read_text()
    assert "out=$target/static" in out and all(name in out for name in re.findall(r"target/static/(\S+)", second))


# Tables.


@pytest.mark.parametrize("body", [body for _, body in blocks("src/config/SETTINGS.md", "json")])
def test_the_examples_of_configurations_are_some(new_daemon, body):
    daemon = new_daemon()
    daemon.config = json.loads(body)
    del daemon.environment["PI_BRIDGE_DIR"]
    # The credentials are the reader's.
    creds = daemon.home / ".config/nats/pi.creds"
    creds.parent.mkdir(parents=True)
    creds.write_text("")
    found = daemon.settings()
    for key, value in daemon.config.items():
        shown, origin = found[key]
        assert "config.json" in origin, f"{key}: {origin}"
        if not isinstance(value, (dict, list)) and key != "creds":
            assert shown in str(value)


def test_the_defaults_of_the_settings(new_daemon):
    """The numbers and plain words in the tables are those that a daemon without any configuration has."""
    daemon = new_daemon(bus=None)
    daemon.config = None
    del daemon.environment["PI_BRIDGE_DIR"]
    (daemon.agent_dir / "settings.json").unlink()
    (daemon.agent_dir / "models.json").unlink()
    found = daemon.values()
    compared = 0
    for name in ("README.md", "src/config/SETTINGS.md"):
        table = re.search(r"^\| file key \|.*?\n(?!\|)", documents.text(name), re.MULTILINE | re.DOTALL)[0]
        for row in table.splitlines()[2:]:
            keys, _, _, default = (cell.strip() for cell in row.strip("|").split("|"))
            plain = re.match(r"`?([0-9.:a-z]+)`?(?:;.*)?$", default)
            if plain and (key := re.match(r"`(\w+)`", keys)[1]) in found:
                assert found[key] == plain[1] or (found[key], plain[1]) in (("-", "false"), ("-", "none"), ("-", "_INBOX"))
                compared += 1
    assert compared >= 12


def codes_of_the_source():
    """The words that the source gives errors: those of the functions called `code`."""
    found = set()
    for path in (ROOT / "src").rglob("*.rs"):
        for body in re.findall(r"fn code\(&?self\) -> &'static str \{\n(.*?)\n    \}", path.read_text(), re.DOTALL):
            found |= set(re.findall(r'=> "(\w+)"', body))
    return found


def test_the_tables_of_errors_have_every_code():
    errors = documents.text("src/service/PROTOCOL.md").split("## Errors")[1]
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \| (\d+) \|", errors, re.MULTILINE)
    named = {code for codes, _ in rows for code in re.findall(r"`(\w+)`", codes)}
    assert named == codes_of_the_source()
    assert {status for _, status in rows} == {"400", "401", "402", "403", "404", "409", "429", "500", "503", "507"}


def test_the_table_of_events_has_every_event():
    table = documents.text("src/socket/PROTOCOL.md").split("## Events")[1].split("## History")[0]
    named = set(re.findall(r"`(\w+)`", "".join(row.split("|")[1] for row in table.splitlines() if row.startswith("|"))))
    source = "".join(path.read_text() for path in (ROOT / "src").rglob("event*.rs"))
    events = set(re.findall(r'AgentEvent::\w+(?:\(_\)| \{ \.\. \})? => "(\w+)"', source))
    assert events and events <= named, events - named
