"""Links of instruction files, skills and templates, which lead no further than their repository; folders without links."""

import json

import pytest

from support.model_script import ToolCall

pytestmark = pytest.mark.any_server

SECRET = "s3cr3t-0f-s0m3b0dy"
SKILL = "---\ndescription: {0}\n---\n{0}\n"


def system(model):
    return json.dumps(model.requests[-1].body["system"])


@pytest.fixture
def tree(new_daemon):
    """A daemon whose working folder is a repository that is trusted, and what must not be shown beside it."""
    daemon = new_daemon()
    # Neither by a link nor by a way around is it another folder.
    (daemon.cwd.parent / "way").symlink_to(daemon.cwd.parent)
    daemon.config["trustedFolders"] = [f"{daemon.cwd.parent}/way/{daemon.cwd.name}/../{daemon.cwd.name}"]
    (daemon.cwd / ".git").mkdir()
    (daemon.cwd / ".pi").mkdir()
    outside = daemon.cwd.parent / "outside"
    (outside / "skills/theirs").mkdir(parents=True)
    (outside / "skills/theirs/SKILL.md").write_text(SKILL.format(SECRET))
    (outside / "x.md").write_text(f"{SECRET}\n")
    (daemon.agent_dir / "auth.json").write_text(json.dumps({"x": {"type": "api_key", "key": SECRET}}))
    return daemon


def link(path, target):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    "name, target",
    [
        ("AGENTS.md", "../outside/x.md"),
        ("AGENTS.md", "/proc/self/environ"),
        ("AGENTS.md", "/dev/zero"),
        ("AGENTS.md", "../outside"),
        ("AGENTS.md", "first"),
        ("AGENTS.md", "away/x.md"),
        ("AGENTS.md", ".ssh/id_ed25519"),
        ("AGENTS.md", "key.txt"),
        (".pi/SYSTEM.md", "../../outside/x.md"),
        (".pi/APPEND_SYSTEM.md", "../../outside/x.md"),
        (".pi/skills", "../../outside/skills"),
        (".pi/skills/theirs", "../../../outside/skills/theirs"),
        (".pi/skills/theirs.md", "../../../outside/skills/theirs/SKILL.md"),
        (".agents/skills/a/SKILL.md", "../../../../outside/skills/theirs/SKILL.md"),
    ],
    ids=str,
)
def test_a_link_that_leads_out_costs_itself_only(tree, model, name, target):
    daemon = tree
    link(daemon.cwd / "first", "../outside/x.md")
    link(daemon.cwd / "away", "../outside")
    write(daemon.cwd / ".ssh/id_ed25519", f"{SECRET}\n")
    write(daemon.cwd / "key.txt", f"-----BEGIN OPENSSH PRIVATE KEY-----\n{SECRET}\n")
    write(daemon.cwd / "CLAUDE.md", "take the next one\n")
    write(daemon.agent_dir / "SYSTEM.md", "the user's own words\n")
    link(daemon.cwd / name, target)
    daemon.start()
    model.script("fine")
    assert daemon.run("go").text() == "fine"
    text = system(model)
    assert SECRET not in text and "PATH=" not in text
    assert "take the next one" in text and "the user's own words" in text
    if target != "../outside":
        daemon.wait_log(rf"{name.split('/')[-1]}.* left out: ")
    assert SECRET not in daemon.log_text()


def test_links_inside_a_repository_are_followed(tree, model):
    daemon = tree
    write(daemon.cwd / "docs/rules.md", "rule one\n")
    write(daemon.cwd / "docs/skills/ours/SKILL.md", SKILL.format("a skill of ours"))
    write(daemon.cwd / "docs/append.md", "to be added\n")
    link(daemon.cwd / "AGENTS.md", "again")
    link(daemon.cwd / "again", daemon.cwd / "docs/rules.md")
    link(daemon.cwd / ".pi/skills", "../docs/skills")
    link(daemon.cwd / ".pi/APPEND_SYSTEM.md", "../folder/append.md")
    link(daemon.cwd / "folder", "docs")
    daemon.start()
    model.script("fine")
    assert daemon.run("go").text() == "fine"
    for words in ("rule one", "a skill of ours", "to be added"):
        assert words in system(model), words
    assert "left out" not in daemon.log_text()


def test_the_users_own_files_stay_in_the_users_home(tree, model):
    daemon = tree
    link(daemon.agent_dir / "AGENTS.md", "../../../outside/x.md")
    link(daemon.agent_dir / "SYSTEM.md", "auth.json")
    link(daemon.agent_dir / "APPEND_SYSTEM.md", daemon.home / "dotfiles/append.md")
    write(daemon.home / "dotfiles/append.md", "mine\n")
    link(daemon.agent_dir / "skills/a", daemon.agent_dir.parents[1] / ".agents/skills/a")
    write(daemon.agent_dir.parents[1] / ".agents/skills/a/SKILL.md", SKILL.format("kept at home"))
    link(daemon.agent_dir / "skills/b", daemon.cwd.parent / "outside/skills/theirs")
    daemon.start()
    model.script("fine")
    assert daemon.run("go").text() == "fine"
    text = system(model)
    assert SECRET not in text
    assert "mine" in text and "kept at home" in text
    for name in ("AGENTS.md", "SYSTEM.md", "skills/b"):
        daemon.wait_log(rf"{name} (is|are) left out: ")


def test_what_is_invoked_leads_nowhere_else(tree, model):
    daemon = tree
    write(daemon.cwd / ".pi/skills/a/SKILL.md", SKILL.format("fine"))
    link(daemon.cwd / ".pi/prompts/t.md", "../../../outside/x.md")
    link(daemon.cwd / ".pi/prompts/u.md", "../u.txt")
    write(daemon.cwd / ".pi/u.txt", "inside $1")
    daemon.start()
    model.script("one", "two", "three")
    daemon.run("/t").text()
    daemon.run("/u word").text()
    (daemon.cwd / ".pi/skills/a/SKILL.md").unlink()
    link(daemon.cwd / ".pi/skills/a/SKILL.md", "../../../../outside/skills/theirs/SKILL.md")
    daemon.run("/skill:a").text()
    sent = [json.dumps(request.body) for request in model.requests]
    assert all(SECRET not in text for text in sent)
    assert "inside word" in sent[1] and "/t" in sent[0] and "/skill:a" in sent[2]


def test_a_working_folder_that_becomes_a_link_says_nothing(tree, model):
    daemon = tree
    write(daemon.cwd / "AGENTS.md", "from the folder\n")
    daemon.start()
    model.script("one", "two")
    daemon.session("s", "go").text()
    assert "from the folder" in system(model)
    other = daemon.cwd.parent / "other"
    write(other / "AGENTS.md", f"{SECRET}\n")
    write(other / ".pi/SYSTEM.md", f"{SECRET}\n")
    daemon.cwd.rename(daemon.cwd.parent / "moved")
    daemon.cwd.symlink_to(other)
    assert daemon.prompt("s", "and now?").text() == "two"
    assert SECRET not in system(model)


def test_a_session_that_comes_back_to_a_link_trusts_nothing(tree, model):
    daemon = tree
    sub = daemon.cwd / "sub"
    write(sub / ".pi/settings.json", json.dumps({"shellCommandPrefix": "echo own"}))
    daemon.start()
    model.script([ToolCall("bash", {"command": "true"})], "one")
    daemon.session("s", "go", cwd=str(sub)).text()
    assert "own" in model.requests[-1].tool_results[-1][0]
    daemon.signal()
    daemon.wait_exit()
    other = daemon.cwd.parent / "other"
    write(other / ".pi/settings.json", json.dumps({"shellCommandPrefix": f"echo {SECRET}"}))
    sub.rename(daemon.cwd / "moved")
    sub.symlink_to(other)
    daemon.start()
    model.script([ToolCall("bash", {"command": "true"})], "two")
    assert daemon.prompt("s", "and now?").text() == "two"
    assert SECRET not in model.requests[-1].tool_results[-1][0]
