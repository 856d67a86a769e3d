"""pi-bridge top, list and logs, with a live daemon, as the screen shows them."""

import base64
import json
import re

import pytest

from support.pictures import png
from support.waiting import eventually

pytestmark = pytest.mark.any_server

OFFLINE = {"model": "offline/demo"}


@pytest.fixture
def host(new_daemon, cli):
    """A daemon with the sessions `alpha` and `beta`, which have answered once."""
    daemon = new_daemon()
    daemon.environment["PI_BRIDGE_DIR"] = str(cli.directory)
    daemon.start()
    for name in ("alpha", "beta"):
        daemon.session(name, "@echo hi", **OFFLINE).text()
    eventually(lambda: len(json.loads(cli("list", "--json").stdout)) >= 2, "both are registered")
    return daemon


@pytest.fixture
def top(cli, host):
    terminal = cli.terminal("top", columns=160, rows=12)
    terminal.await_row("^alpha .*")
    return terminal


def with_sight(daemon):
    """All models take images."""
    models = json.loads((daemon.agent_dir / "models.json").read_text())
    for provider in models["providers"].values():
        for definition in provider["models"]:
            definition["input"] = ["text", "image"]
    daemon.write_agent_file("models.json", models)


def rows_of(terminal):
    """The rows of the table below its header."""
    return [row for row in terminal.rows[2:-1] if row]


def selected(terminal):
    """The row that is shown reversed."""
    for number, row in enumerate(terminal.model.display):
        if terminal.model.buffer[number][0].reverse:
            return row.split()[0]
    return None


def test_the_table_is_printed_once(host, cli):
    done = cli("list")
    header, *rows = done.stdout.splitlines()
    assert header.split()[:3] == ["SESSION", "STATE", "MODEL"] and "\t" not in done.stdout and ".sock" not in done.stdout
    assert [row.split()[:3] for row in rows] == [[name, "idle", "offline/demo"] for name in ("alpha", "beta")]
    # Columns are aligned: each cell begins, or for numbers ends, where its header does.
    for name in ("STATE", "MODEL", "SANDBOX", "CWD"):
        at = header.index(name)
        assert all(row[at - 1] == " " and row[at] != " " for row in rows), name
    assert re.search(r"\d+ +\$0\.0000 +\$0\.0000 +\d+% ", rows[0])
    assert str(host.pid) in rows[0]
    assert cli("list", "--long").stdout.count(".sock") == 2
    assert [row["sessionId"] for row in json.loads(cli("list", "--json").stdout) if "sessionId" in row] == ["alpha", "beta"]


def test_a_daemon_without_sessions_is_no_empty_table(new_daemon, cli):
    daemon = new_daemon()
    daemon.environment["PI_BRIDGE_DIR"] = str(cli.directory)
    daemon.start()
    eventually(lambda: cli("list").stdout.startswith("No sessions; a daemon is there"), "the daemon is there")


def test_what_goes_on_is_shown_while_it_goes_on(top, cli):
    cli("send", "--session", "beta", '@tool bash {"command":"sleep 30"}')
    top.await_row(r"^beta +running +offline/demo +bash sleep 30 \d+ s ")
    top.await_row("^2 sessions, 0 runs; 1 working, 0 waiting; ")
    cli("follow-up", "--session", "beta", "later")
    top.await_row(r"^beta .* s +1 ")
    assert cli("abort", "beta").returncode == 0
    top.await_row(r"^beta +idle +offline/demo +- ")


def test_runs_are_shown_too(top, cli):
    assert cli("run", "--detach", "--model", "offline/demo", '@tool bash {"command":"sleep 30"}').returncode == 0
    top.await_row(r" run +offline/demo +bash sleep 30 ")
    assert "sleep 30" in cli("list").stdout


def test_rows_are_sorted_and_filtered(top):
    top.await_screen(lambda _: [row.split()[0] for row in rows_of(top)] == ["alpha", "beta"], "both, in order")
    top.press(b"r")
    top.await_screen(lambda rows: rows[2].startswith("beta"), "backwards")
    top.press(b">")
    top.await_row(r"STATE\*")
    top.press(b"/alp")
    top.await_row("^filter: alp_")
    top.await_screen(lambda rows: not any(row.startswith("beta") for row in rows), "only alpha")
    top.press(b"\r")
    top.await_row("^filter: alp   Enter attach")
    top.press(b"\x1b")
    top.await_row("^beta ")
    top.press(b"q")
    assert top.wait_exit() == 0
    assert top.text.endswith("\x1b[?25h\x1b[?1049l")


def test_enter_attaches_and_quitting_leads_back(top):
    top.press(b"j")
    top.await_screen(lambda rows: selected(top) == "beta", "beta is selected")
    top.press(b"\r")
    top.await_row("^-- session beta in ")
    top.type("@echo what was typed")
    top.await_row("what was typed$")
    top.type("/quit")
    top.await_row("^SESSION")
    top.press(b"q")
    assert top.wait_exit() == 0


def test_s_twice_stops(top, host):
    top.press(b"s")
    top.await_row("^s again stops alpha$")
    top.press(b"k")
    top.await_row("^Enter attach")
    assert "alpha" in host.session_ids()
    top.press(b"s")
    top.await_row("^s again stops alpha$")
    top.press(b"s")
    top.await_row("^alpha is stopped$")
    top.await_screen(lambda rows: not any(row.startswith("alpha ") and "idle" in row for row in rows), "it is gone")
    assert host.session_ids() == ["beta"]


def test_the_log_of_a_session(host, cli):
    done = cli("logs", "alpha")
    assert done.returncode == 0 and re.match(r"\S+Z info  session alpha started in /", done.stdout), done
    assert "beta" not in done.stdout
    assert "session beta started" in cli("logs").stdout and "connected" in cli("logs").stdout
    assert json.loads(cli("logs", "alpha", "--json").stdout)["data"]["lines"][0]["session"] == "alpha"
    wrong = cli("logs", "alpa")
    assert (wrong.returncode, wrong.stderr) == (1, "Nothing was logged about a session alpa\n")


def test_near_names_are_told(host, cli):
    for arguments, told in (
        (("state", "alhpa"), "No such session: alhpa; did you mean alpha? (see pi-bridge list)\n"),
        (("state", "nonsense"), "No such session: nonsense (see pi-bridge list)\n"),
        (("atach",), "Unknown subcommand: atach; did you mean attach? (pi-bridge --help lists them)\n"),
        (("send", "--straem", "hi"), "Unknown option for send: --straem; did you mean --stream?; a message with such words goes behind --\n"),
    ):
        done = cli(*arguments)
        assert (done.returncode, done.stdout, done.stderr) == (1, "", told)


@pytest.mark.parametrize("verb", ["run", "send"])
def test_something_moves_on_a_terminal_and_never_in_a_pipe(host, cli, verb):
    go = (cli.cwd if verb == "run" else host.cwd) / "go"
    prompt = '@tool bash {"command":"until [ -e go ]; do sleep 0.05; done; echo done"}'
    arguments = ("run", "--model", "offline/demo", prompt) if verb == "run" else ("send", "--stream", "--session", "alpha", prompt)
    terminal = cli.terminal(*arguments)
    terminal.await_row(r"^[-|/\\] \[bash\] until .* echo done, \d+ s$")
    go.write_text("")
    assert terminal.wait_exit() == 0
    assert not any(row.startswith(("|", "/", "-", "\\")) for row in terminal.rows)
    assert "done" in "\n".join(terminal.rows)
    done = cli(*arguments)
    assert done.returncode == 0 and done.stderr == "" and "\r" not in done.stdout


def test_images_go_with_a_message(new_daemon, cli, model, tmp_path):
    daemon = new_daemon()
    daemon.environment["PI_BRIDGE_DIR"] = str(cli.directory)
    with_sight(daemon)
    daemon.start()
    model.script("first", "a dot")
    daemon.session("alpha", "hi").text()
    eventually(lambda: cli("state", "alpha").returncode == 0, "it is registered")
    picture = tmp_path / "dot.png"
    picture.write_bytes(png())
    done = cli("send", "--stream", "--image", picture, "what is this?")
    assert (done.returncode, done.stdout) == (0, "a dot\n"), done.stderr
    assert base64.b64encode(png()).decode() in json.dumps(model.requests[-1].body)
    assert cli("send", "--image", tmp_path / "none.png", "x").stderr.startswith("--image ")
