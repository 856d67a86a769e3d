"""Sessions with `workspace: "git"`: their working folders go on elsewhere with them, as commits that are pushed at the end of each turn."""

import json
import signal

import pytest

from support.bridge import Bridge
from support.bus import NoResponders
from support.clones import CAN_MOUNT, Clones, bash, folder, git, rank
from support.fleet import LONG_CARD
from support.model_script import Gate, Text
from support.proc import landlock_abi
from support.waiting import eventually

mounts = pytest.mark.skipif(not CAN_MOUNT, reason="only root may give each host a folder of its own at the same path")
CHANGE = "echo new > edited; rm gone; mkdir sub; echo made > sub/made; echo x > ignored"
# What that makes of the folder, but for what is ignored.
CHANGED = {"kept": "kept", "edited": "new", "sub/made": "made", ".gitignore": "ignored"}


@pytest.fixture
def clones(fleet, tmp_path):
    return Clones(fleet, tmp_path)


def kill(host):
    host.signal(signal.SIGKILL)
    host.wait_exit()


def drain(host, on=True):
    with Bridge(host.socket) as client:
        client.ask("drain" if on else "undrain")


def told(model):
    """What the model was told of hosts and folders, the last time that it was asked."""
    return [text for text in model.requests[-1].prompts if text.startswith("[The session goes on at another host")]


def is_at(fleet, host, name="s"):
    eventually(lambda: fleet.has(host, name), f"{name} is there")
    for other in fleet.others(host):
        eventually(lambda other=other: not fleet.has(other, name), f"{name} is nowhere else")


@mounts
@pytest.mark.parametrize("profile", ["workspace", "off"])
def test_a_folder_goes_on_where_its_host_died(fleet, clones, profile):
    hosts = clones.start(sandbox=profile)
    fleet.model.script([Text("I "), bash(CHANGE)], "did")
    assert clones.session(events=True).text() == "I did"
    # The host may die right now: the end was not said before the folder was pushed.
    owner = fleet.owner_of("s")
    kill(owner)
    assert clones.pushed_files() == CHANGED
    (other,) = fleet.others(owner)
    other.wait_log("session s started")
    fleet.model.script("again")
    assert fleet.say("s", "go on") == "again"
    assert folder(other.clone) == CHANGED
    (text,) = told(fleet.model)
    commit = clones.pushed()
    assert other.config["fleetHost"] in text and "with everything that was changed so far" in text and str(clones.path) in text
    # The answer has changed nothing, so that there is no other commit.
    assert commit[:12] in text and git(other.clone, "rev-parse", "refs/agents/s") == commit
    # Neither of them finds more than changed files.
    for host in hosts:
        assert git(host.clone, "status", "--porcelain").split("\n") == ["M edited", " D gone", "?? sub/"]
        assert git(host.clone, "diff", "--cached") == "" and git(host.clone, "branch") == "* main"
        assert git(host.clone, "rev-parse", "HEAD") == git(clones.remote, "rev-parse", "main")
        assert not list((host.clone / ".git").glob("*.agent-index*"))


@mounts
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_what_an_interrupted_turn_had_changed_is_not_taken_for_there(fleet, clones, end):
    clones.start(grace=0)
    gate = Gate()
    fleet.model.script([bash("echo one > one")], "first", [bash("echo two > two")], ["more ", gate, "never"])
    assert clones.session().text() == "first"
    stream = fleet.hosts[0].prompt("s", "second")
    stream.until("more ")
    owner = fleet.owner_of("s")
    (other,) = fleet.others(owner)
    fleet.model.script("went on")
    owner.signal(end)
    owner.wait_exit()
    gate.open()
    assert stream.text().endswith("went on")
    (text,) = told(fleet.model)
    assert "is not in it" in text and fleet.model.requests[-1].prompts[-1] == text
    assert "one" in folder(other.clone) and "two" not in folder(other.clone)


@mounts
def test_a_turn_that_leaves_takes_its_changes_along(fleet, clones):
    """It leaves before its next tool, and what its tools had changed by then is there, though the turn is not over."""
    clones.start(fleetCardTime=LONG_CARD)
    gate = Gate()
    fleet.model.script([Text("0 "), bash("echo one > one", "c1")], [Text("1 "), gate, bash("cat one; echo two > two", "c2")], "end")
    stream = clones.session(events=True)
    stream.until("1 ")
    owner = fleet.owner_of("s")
    (other,) = fleet.others(owner)
    drain(owner)
    owner.wait_log("draining")
    gate.open()
    assert stream.text() == "0 1 end" and not stream.restarts
    is_at(fleet, other)
    assert [result for result, _ in fleet.model.requests[-1].tool_results] == ["(no output)", "one\n"]
    (text,) = told(fleet.model)
    assert "with everything that was changed so far" in text
    assert clones.pushed_files().keys() >= {"one", "two"} and "two" not in folder(owner.clone)


@mounts
def test_a_folder_goes_back_and_forth(fleet, clones):
    """What a session left in a clone is no change of that clone's own."""
    clones.start(fleetCardTime=LONG_CARD)
    fleet.model.script("begun")
    assert clones.session().text() == "begun"
    owner = fleet.owner_of("s")
    for number in range(4):
        fleet.model.script([bash(f"echo {number} >> edited; touch new{number}; rm -f new{number - 2}")], "done")
        assert fleet.say("s", "go") == "done"
        (other,) = fleet.others(owner)
        drain(owner)
        is_at(fleet, other)
        drain(owner, on=False)
        owner = other
    fleet.model.script("end")
    assert fleet.say("s", "go") == "end"
    assert folder(owner.clone)["edited"].split() == ["old", "0", "1", "2", "3"] and "new1" not in folder(owner.clone)
    assert folder(owner.clone) == clones.pushed_files()


@mounts
@pytest.mark.parametrize("leave", [drain, kill])
@pytest.mark.parametrize("why", ["changes", "no clone"])
def test_a_host_that_cannot_have_the_folder_leaves_the_session_to_the_next(fleet, clones, leave, why):
    first, *_ = clones.start(1)
    names = sorted(["h1", "h2"], key=lambda host: rank("s", host), reverse=True)
    fleet.model.script([bash(CHANGE)], "done")
    assert clones.session().text() == "done"
    for name in ("h1", "h2"):
        clones.host(clones=why != "no clone" or name != names[0])
    unable = next(host for host in fleet.hosts if host.config["fleetHost"] == names[0])
    able = next(host for host in fleet.hosts if host.config["fleetHost"] == names[1])
    if why == "changes":
        (unable.clone / "edited").write_text("somebody's")
        (unable.clone / "notes").write_text("somebody's")
    before = folder(unable.clone)
    leave(first)
    able.wait_log("session s started")
    fleet.model.script("again")
    assert fleet.say("s", "go on") == "again"
    assert folder(able.clone) == CHANGED and folder(unable.clone) == before
    assert not fleet.has(unable, "s")
    if why == "changes":
        unable.wait_log("folder_changed: .*(edited|notes)")


@mounts
def test_a_file_that_git_ignores_is_not_written_over(fleet, clones):
    clones.start(1)
    fleet.model.script([bash("echo session > ignored; git add -f ignored")], "done")
    assert clones.session().text() == "done"
    other = clones.host()
    (other.clone / "ignored").write_text("somebody's")
    kill(fleet.hosts[0])
    other.wait_log("folder_changed: in the way: ignored")
    assert (other.clone / "ignored").read_text() == "somebody's"


@mounts
def test_a_push_that_fails_is_told_and_tried_again(fleet, clones):
    clones.start(fleetCardTime=LONG_CARD)
    fleet.model.script([bash("echo one > one")], "first", [bash("echo two > two")], "second", "third")
    heard = fleet.bus.listen(f"agents.ev.{fleet.hosts[0].owner}.s.>")
    assert clones.session(events=True).text() == "first"
    owner = fleet.owner_of("s")
    (other,) = fleet.others(owner)

    def next_event(name):
        while True:
            message = heard.message()
            if message.subject.endswith(name):
                return json.loads(message.data)["data"]

    assert next_event("workspace_saved")["commit"] == clones.pushed()
    clones.hide_remote()
    assert fleet.say("s", "go") == "second"
    assert next_event("workspace_not_saved")["code"] == "push_failed"
    clones.show_remote()
    assert "two" not in clones.pushed_files()
    # Without that it does not go to another host.
    drain(owner)
    owner.wait_log("draining")
    drain(owner, on=False)
    assert fleet.has(owner, "s") and not fleet.has(other, "s")
    assert fleet.say("s", "go") == "third"
    assert next_event("workspace_saved")["commit"] == clones.pushed() and "two" in clones.pushed_files()
    drain(owner)
    is_at(fleet, other)


@mounts
def test_what_could_not_be_pushed_is_told_where_the_session_goes_on(fleet, clones):
    clones.start()
    # The host may die before it is known elsewhere that the second prompt is answered, for whose changes the model is asked then.
    fleet.model.script([bash("echo one > one")], "first", [bash("echo two > two")], "second")
    fleet.model.answer(lambda request: "third")
    assert clones.session().text() == "first"
    clones.hide_remote()
    assert fleet.say("s", "go") == "second"
    owner = fleet.owner_of("s")
    (other,) = fleet.others(owner)
    kill(owner)
    clones.show_remote()
    other.wait_log("session s started")
    assert fleet.say("s", "go") == "third"
    (text,) = told(fleet.model)
    assert "could not be saved, is not in it" in text and "two" not in folder(other.clone)


@mounts
def test_what_somebody_else_has_pushed_is_passed_over_and_not_lost(fleet, clones):
    clones.start(1)
    fleet.model.script([bash("echo one > one")], "first", [bash("echo two > two")], "second")
    assert clones.session().text() == "first"
    seed = clones.directory / "seed"
    (seed / "theirs").write_text("theirs")
    git(seed, "add", "-A")
    git(seed, "commit", "-q", "-m", "Theirs")
    git(seed, "push", "-q", "-f", "origin", "HEAD:refs/agents/s")
    theirs = clones.pushed()
    assert fleet.say("s", "go") == "second"
    assert "two" in clones.pushed_files() and "theirs" not in clones.pushed_files()
    assert theirs in git(clones.remote, "rev-list", "refs/agents/s").split()


@mounts
def test_an_abort_does_not_wait_for_a_push(fleet, clones, tmp_path):
    (host,) = clones.start(1, sandbox="off")
    git(host.clone, "remote", "set-url", "origin", "ssh://nowhere/r.git")
    ssh, begun = tmp_path / "ssh", tmp_path / "begun"
    ssh.write_text(f"#!/bin/sh\necho $$ > {begun}\nsleep 100\n")
    ssh.chmod(0o755)
    fleet.model.script("done", "next")
    stream = clones.session(env={"GIT_SSH_COMMAND": str(ssh)})
    stream.until("done")
    pid = int(eventually(lambda: begun.exists() and begun.read_text(), "it pushes"))
    with Bridge(host.session_socket("s")) as client:
        client.ask("abort")
    assert stream.text() == "done"
    eventually(lambda: not (tmp_path / f"/proc/{pid}").exists(), "nothing of it is left")
    assert not host.inspect("s")["activeRequest"]


@mounts
@pytest.mark.skipif(landlock_abi() < 1, reason="the kernel has no Landlock")
def test_what_a_repository_has_git_run_is_confined_as_tools_are(fleet, clones, tmp_path):
    (host,) = clones.start(1)
    outside = tmp_path / "outside"
    outside.mkdir()
    touch = f"sh -c 'touch {outside}/%s inside-%s; cat'"
    git(host.clone, "config", "filter.f.clean", touch.replace("%s", "filter"))
    git(host.clone, "config", "core.fsmonitor", touch.replace("%s", "fsmonitor"))
    (host.clone / ".gitattributes").write_text("* filter=f\n")
    for hook in ("pre-push", "reference-transaction", "post-index-change"):
        path = host.clone / ".git/hooks" / hook
        path.write_text(f"#!/bin/sh\ntouch {outside}/hook {clones.path}/inside-hook\n")
        path.chmod(0o755)
    fleet.model.script("done")
    assert clones.session().text() == "done"
    assert clones.pushed()
    assert (host.clone / "inside-filter").exists() and not (host.clone / "inside-hook").exists()
    assert not (host.clone / "inside-fsmonitor").exists() and not list(outside.iterdir())


def test_a_folder_that_is_no_clone_is_refused(fleet, tmp_path):
    fleet.start(1)
    (host,) = fleet.hosts
    request = {"sessionMode": "session", "sessionId": "s", "body": "hello", "cwd": str(host.cwd), "workspace": "git"}
    refused = host.refusal(request)
    assert refused.error == "session_create_failed" and "is not the top folder of a git work tree" in refused.document["message"]
    git(host.cwd, "init", "-q")
    refused = host.refusal(request)
    assert refused.error == "session_create_failed" and "has no remote" in refused.document["message"]
    git(host.cwd, "remote", "add", "origin", tmp_path / "r.git")
    refused = host.refusal({**request, "sandbox": "read-only"})
    assert refused.error == "invalid_request" and "sandbox" in refused.document["message"]
    refused = host.refusal({**request, "workspace": "hg"})
    assert refused.error == "invalid_request" and "none of local, shared, git" in refused.document["message"]
    assert host.list()["sessions"] == [] and fleet.records("s") == [] and not fleet.has(host, "s")
    with pytest.raises(NoResponders):
        host.prompt("s", "hello").text()


def test_where_a_folder_is_shows(fleet, tmp_path):
    """Also where nothing can be pushed: the model's answer comes, and the session stays."""
    fleet.start(1)
    (host,) = fleet.hosts
    git(host.cwd, "init", "-q")
    git(host.cwd, "remote", "add", "origin", tmp_path / "r.git")
    fleet.model.answer(lambda request: "done")
    for name, kind in (("s", "git"), ("t", "shared"), ("u", "local")):
        assert host.session(name, "go", workspace=kind).text() == "done"
        assert host.inspect(name).get("workspace", "local") == kind
    assert [row.get("workspace") for row in host.list()["sessions"]] == ["git", "shared", None]
    host.wait_log("session s: its folder is not saved: push_failed")
