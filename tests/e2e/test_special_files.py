"""A pipe that nobody writes to, or a device without an end, in place of a file that the daemon opens: it is named, and costs
itself. Whoever opened it without looking would wait for ever or fill the memory."""

import os
import re
from pathlib import Path

import pytest

from support.model_script import ToolCall

pytestmark = pytest.mark.any_server

# Seconds; far more than anything here takes.
PROMPTLY = 5
NOT_REGULAR = r"not a regular file but a (named pipe|device|symbolic link)"


@pytest.fixture(params=["pipe", "device"])
def special(request):
    """Puts what is no regular file at a path, in place of whatever is there."""

    def put(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        if request.param == "pipe":
            os.mkfifo(path, 0o600)
        else:
            path.symlink_to("/dev/zero")
        return path

    return put


def named(path, text):
    """A line names the file and says what it is."""
    return re.search(rf"{re.escape(str(path))}.*{NOT_REGULAR}", text)


class TestWithoutThemNothingStarts:
    """What the operator named ends the start."""

    def ends(self, daemon, path, *arguments):
        done = daemon.run_to_end(*arguments, timeout=PROMPTLY)
        assert done.returncode > 0
        assert named(path, done.stderr), done.stderr

    def test_the_configuration(self, new_daemon, special):
        daemon = new_daemon()
        path = special(daemon.home / "other.json")
        self.ends(daemon, path, "--config", str(path))

    def test_a_context(self, new_daemon, special):
        daemon = new_daemon()
        self.ends(daemon, special(daemon.context("here")), "--context", "here")


@pytest.mark.parametrize("flag", ["--creds", "--nkey", "--tls-ca", "--tls-cert", "--tls-key"])
def test_what_a_server_is_shown(new_daemon, special, certificates, own_server, flag):
    """It may be put right while the daemon runs, so that the daemon tries again."""
    tls = flag.startswith("--tls")
    server = own_server(certificates.server_config(), scheme="tls") if tls else own_server()
    daemon = new_daemon(server.url, None)
    path = special(daemon.home / "file")
    own = {"--tls-ca": certificates.authority, "--tls-cert": certificates.client, "--tls-key": certificates.client_key}
    others = [part for pair in own.items() for part in pair if tls and pair[0] != flag]
    daemon.spawn(flag, str(path), *others)
    daemon.wait_log(rf"{re.escape(str(path))}.*{NOT_REGULAR}", PROMPTLY)
    daemon.signal()
    assert daemon.wait_exit(PROMPTLY) == 0


def test_more_authorities(new_daemon, special, certificates, own_server, own_bus):
    server = own_server(certificates.server_config(), scheme="tls")
    daemon = new_daemon(server.url, None)
    daemon.environment["NODE_EXTRA_CA_CERTS"] = str(special(daemon.home / "file"))
    daemon.spawn()
    daemon.wait_log("(?i)certificate", PROMPTLY)


class TestWithoutThemItGoesOn:
    @pytest.mark.parametrize("name", ["auth.json", "models.json", "settings.json"])
    def test_a_file_of_the_user(self, new_daemon, model, special, name):
        daemon = new_daemon()
        path = special(daemon.agent_dir / name)
        daemon.start()
        daemon.refusal({"sessionMode": "run", "body": "x", "cwd": str(daemon.cwd), "model": "openai/gpt-5.5"})
        daemon.wait_log(rf"{re.escape(str(path))}: {NOT_REGULAR}", PROMPTLY)
        assert named(path, daemon.run_to_end("--check", timeout=PROMPTLY).stderr)

    def test_the_lock_of_the_state(self, new_daemon, special):
        daemon = new_daemon()
        special(daemon.state_dir / "lock")
        daemon.start()
        daemon.wait_log(rf"sessions will not be kept over a restart: .*{NOT_REGULAR}", PROMPTLY)

    def test_instructions_skills_and_templates(self, new_daemon, model, special):
        daemon = new_daemon()
        for name in ("AGENTS.md", "SYSTEM.md", "APPEND_SYSTEM.md", "skills/one/SKILL.md", "prompts/two.md"):
            special(daemon.agent_dir / name)
        special(daemon.cwd / "AGENTS.md")
        special(daemon.cwd / ".gitignore")
        daemon.start()
        model.script("fine")
        assert daemon.run("/two", timeout=PROMPTLY).text() == "fine"

    def test_the_record_of_a_session(self, new_daemon, model, special):
        daemon = new_daemon().start()
        model.script("one", "two")
        for session in ("a", "b"):
            daemon.session(session, "x").text()
        daemon.signal()
        assert daemon.wait_exit() == 0
        special(daemon.state_dir / "a.json")
        daemon.start()
        assert daemon.session_ids() == ["b"]
        daemon.wait_log(r"a\.json is damaged and was set aside", PROMPTLY)

    def test_the_file_of_a_session(self, new_daemon, model, special):
        daemon = new_daemon().start()
        model.script("one", "two")
        for session in ("a", "b"):
            daemon.session(session, "x").text()
        path = Path(daemon.inspect("a")["sessionFile"])
        daemon.signal()
        assert daemon.wait_exit() == 0
        special(path)
        daemon.start()
        daemon.wait_log(rf"session a: its file cannot be used: {NOT_REGULAR}", PROMPTLY)
        assert re.search(NOT_REGULAR, daemon.prompt("a", "x").failure().text)
        model.script("three")
        assert daemon.prompt("b", "x").text() == "three"

    def test_ignore_rules_of_all_repositories(self, new_daemon, model, special):
        daemon = new_daemon()
        path = special(daemon.home / ".gitconfig")
        daemon.start()
        model.script([ToolCall("find", {"pattern": "*"})], "done")
        assert daemon.run("go", tools=["find"]).text() == "done"
        assert str(path) in model.requests[-1].tool_results[0][0]

    def test_files_for_tools(self, daemon, model, special):
        special(daemon.cwd / "there")
        for call in (ToolCall("read", {"path": "there"}), ToolCall("edit", {"path": "there", "oldText": "a", "newText": "b"})):
            model.script([call], "done")
            assert daemon.run("go").text() == "done"
            assert re.search(NOT_REGULAR, model.requests[-1].tool_results[0][0])
