"""One session, two agents: PI opens the daemon's session files, and the daemon PI's, in the same home directory."""

import contextlib
import json
import os
from pathlib import Path

import pytest

from support.model_script import ToolCall, Usage
from support.npm import INSTALL_TIMEOUT
from support.pi import RELEASES, Pi

# Prompts of each of the two.
ALTERNATIONS = int(os.environ.get("PI_ALTERNATIONS", "10"))
# The first test that runs may have to install PI.
pytestmark = [pytest.mark.any_server, pytest.mark.npm, pytest.mark.timeout(INSTALL_TIMEOUT + 120 + 2 * ALTERNATIONS)]


@pytest.fixture
def daemon(new_daemon):
    """A daemon that keeps little of a conversation when it compacts it, and so does PI."""
    daemon = new_daemon()
    # Less than a question and an answer, more than an answer, so that the last question begins what is kept.
    compaction = {"reserveTokens": 16384, "keepRecentTokens": 6}
    daemon.write_agent_file("settings.json", {"retry": {"baseDelayMs": 20}, "compaction": compaction})
    return daemon.start()


@pytest.fixture(params=RELEASES, ids=str)
def pi(request, daemon):
    return Pi(daemon, request.param)


def entries(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def assert_one_branch(file):
    """Each entry follows the one before, and none is there twice."""
    header, *rest = entries(file)
    assert (header["type"], header["version"]) == ("session", 3)
    ids = [entry["id"] for entry in rest]
    assert [entry["parentId"] for entry in rest] == [None, *ids[:-1]]
    assert len(set(ids)) == len(ids)


def test_pi_goes_on_with_a_session_of_the_daemon(daemon, model, pi):
    model.script([ToolCall("bash", {"command": "echo tool says 417"}, id="call_1")], "I ran it.")
    assert daemon.session("ours", "Run it", persist=True).text() == "I ran it."
    file = session_file(daemon, "ours")
    assert file.stat().st_mode & 0o777 == 0o600
    daemon.signal()
    assert daemon.wait_exit() == 0

    model.script("It was 417.")
    assert pi.prompt("Which number?", file) == file
    request = model.requests[-1]
    assert request.conversation == [("user", "Run it"), ("assistant", "I ran it."), ("user", "Which number?")]
    assert request.tool_results == [("tool says 417\n", False)]
    assert_one_branch(file)

    # And back again: after a restart the daemon's session knows what PI added.
    model.script("Yes.")
    daemon.start()
    assert daemon.prompt("ours", "Sure?").text() == "Yes."
    assert model.requests[-1].conversation == [*request.conversation, ("assistant", "It was 417."), ("user", "Sure?")]
    assert_one_branch(file)


def test_both_take_turns_on_a_live_session(daemon, model):
    """PI goes on with the file while the daemon has its session, and the daemon with what PI added: nothing is lost, and
    there is one branch. Releases of PI alternate too."""
    model.answer(lambda request: f"answer to {request.prompts[-1]}")
    daemon.session("live", "ours", persist=True).text()
    file = session_file(daemon, "live")
    said = [("user", "ours"), ("assistant", "answer to ours")]
    with contextlib.ExitStack() as stack:
        releases = [stack.enter_context(Pi(daemon, release).running(file)) for release in RELEASES]
        for number in range(ALTERNATIONS):
            for who in ("PI", "ours"):
                text = f"{who} {number}"
                if who == "PI":
                    releases[number % len(releases)].prompt(text, file)
                else:
                    assert daemon.prompt("live", text).text() == f"answer to {text}"
                    daemon.wait_session("live", lambda facts: not facts["activeRequest"], "it is idle")
                said.append(("user", text))
                assert model.requests[-1].conversation == said
                said.append(("assistant", f"answer to {text}"))
                model.requests.clear()
    assert_one_branch(file)
    assert daemon.inspect("live")["messages"] == len(said)


@pytest.mark.parametrize("name", ["path", "file name", "id", "beginning of the id"])
def test_the_daemon_goes_on_with_a_session_of_pi(daemon, model, pi, name):
    model.script([ToolCall("bash", {"command": "echo tool says 417"}, id="call_1")], "I ran it.")
    file = pi.prompt("Run it")
    session_id = entries(file)[0]["id"]
    wanted = {"path": str(file), "file name": file.name, "id": session_id, "beginning of the id": session_id[:13]}[name]

    model.script("It was 417.")
    assert daemon.session("theirs", "Which number?", resume=wanted).text() == "It was 417."
    request = model.requests[-1]
    assert request.conversation == [("user", "Run it"), ("assistant", "I ran it."), ("user", "Which number?")]
    assert request.tool_results == [("tool says 417\n", False)]
    assert session_file(daemon, "theirs") == file
    assert_one_branch(file)

    # And back again: PI knows what the daemon added.
    daemon.stop_session("theirs")
    model.script("Yes.")
    pi.prompt("Sure?", file)
    assert model.requests[-1].conversation == [*request.conversation, ("assistant", "It was 417."), ("user", "Sure?")]
    assert_one_branch(file)


def test_a_session_that_pi_compacted(daemon, model, pi):
    model.script("First answer.", "Second answer.", "The summary of PI.")
    file = pi.prompt("First question")
    pi.prompt("Second question", file)
    assert pi.compact(file)["summary"].startswith("The summary of PI.")

    model.script("Third answer.", "Fourth answer.")
    assert daemon.session("compacted", "Third question", resume=str(file)).text() == "Third answer."
    ours = model.requests[-1].conversation
    assert_summary(ours[0], "The summary of PI.")
    assert ours[1:] == [("user", "Second question"), ("assistant", "Second answer."), ("user", "Third question")]
    daemon.stop_session("compacted")

    # PI sees its own file in the very same way.
    pi.prompt("Fourth question", file)
    assert model.requests[-1].conversation == [*ours, ("assistant", "Third answer."), ("user", "Fourth question")]


def test_a_session_that_the_daemon_compacted(daemon, model, pi):
    full = [Usage(input=190_000), "Second answer."]
    model.script("First answer.", full, "The summary of the daemon.", "Third answer.")
    assert daemon.session("compacted", "First question", persist=True).text() == "First answer."
    assert daemon.prompt("compacted", "Second question").text() == "Second answer."
    assert daemon.prompt("compacted", "Third question").text() == "Third answer."
    ours = model.requests[-1].conversation
    assert_summary(ours[0], "The summary of the daemon.")
    assert ours[1:] == [("user", "Second question"), ("assistant", "Second answer."), ("user", "Third question")]
    file = session_file(daemon, "compacted")
    assert [entry["type"] for entry in entries(file)].count("compaction") == 1
    daemon.signal()
    assert daemon.wait_exit() == 0

    model.script("Fourth answer.")
    pi.prompt("Fourth question", file)
    assert model.requests[-1].conversation == [*ours, ("assistant", "Third answer."), ("user", "Fourth question")]
    assert_one_branch(file)


def test_damage_that_pi_left_behind_is_repaired(daemon, model, pi):
    """A crash of the machine tears PI's last line; PI itself would go on on the same line."""
    model.script("First answer.")
    file = pi.prompt("First question")
    whole = file.read_bytes()
    file.write_bytes(whole + b'{"type":"message","id":"torn')
    model.script("Second answer.", "Third answer.")
    daemon.session("torn", "Second question", resume=str(file)).text()
    daemon.stop_session("torn")
    assert file.read_bytes().startswith(whole + b"{")
    pi.prompt("Third question", file)
    assert [text for _, text in model.requests[-1].conversation] == [
        "First question", "First answer.", "Second question", "Second answer.", "Third question",
    ]
    assert_one_branch(file)


def assert_summary(message, words):
    role, text = message
    assert role == "user"
    assert f"<summary>\n{words}" in text


def session_file(daemon, session_id):
    return Path(daemon.inspect(session_id)["sessionFile"])


def test_entries_of_newer_releases_are_read_alike(daemon, model, pi):
    """Edits of the context, the use of tokens outside of it, system messages and their checkpoint in a compaction."""
    if str(pi.release) != "newest":
        pytest.skip("the older release does not know these entries")
    when = "2026-01-01T00:00:00.000Z"
    usage = {"input": 5, "output": 1, "cacheRead": 0, "cacheWrite": 0, "totalTokens": 6, "cost": {"total": 0.5}}
    system = {"role": "system", "content": "Be kind.", "sections": {"a": "b"}, "toolsAdded": [], "timestamp": 1}

    def answer(text):
        return {
            "role": "assistant", "content": [{"type": "text", "text": text}], "api": "anthropic-messages",
            "provider": "scripted", "model": "one", "usage": usage, "stopReason": "stop", "rawStopReason": "end_turn",
            "thinkingLevel": "off", "providerThinkingLevel": "none", "diagnostics": [], "endTurn": True, "timestamp": 3,
        }

    def user(text):
        return {"role": "user", "content": text, "timestamp": 2}

    lines = [
        ("message", {"message": system}),
        ("message", {"message": user("forgotten")}),
        ("message", {"message": answer("as well")}),
        ("message", {"message": user("kept")}),
        ("message", {"message": answer("long answer")}),
        ("usage", {"kind": "cache_warm", "provider": "scripted", "model": "one", "usage": usage, "note": "n"}),
        ("compaction", {"summary": "So far.", "firstKeptEntryId": "00000004", "tokensBefore": 9, "systemMessage": system}),
        ("message", {"message": user("secret")}),
        ("message", {"message": answer("told")}),
        ("custom", {"customType": "pi.virtual-model-state", "data": {"provider": "p", "modelId": "m", "state": {}}}),
        ("context_edit", {"targetId": "00000005", "replacement": {"content": "short"}}),
        ("context_edit", {"targetId": "00000008", "replacement": {"content": "first"}}),
        ("context_edit", {"targetId": "00000008", "replacement": {"content": [{"type": "text", "text": "public"}]}}),
        ("from_the_future", {"content": "unknown"}),
        ("message", {"message": user("taken back")}),
        ("message", {"message": answer("never said")}),
        ("context_edit", {"targetId": "0000000f", "replacement": None}),
        ("context_edit", {"targetId": "00000010", "replacement": None}),
    ]
    header = {"type": "session", "version": 3, "id": "0198c0de-0000-7000-8000-000000000000", "timestamp": when}
    written = [{**header, "cwd": str(daemon.cwd)}]
    for number, (kind, fields) in enumerate(lines, 1):
        parent = f"{number - 1:08x}" if number > 1 else None
        written.append({"type": kind, "id": f"{number:08x}", "parentId": parent, "timestamp": when, **fields})
    file = daemon.agent_dir / "sessions/any" / f"2026-01-01T00-00-00-000Z_{header['id']}.jsonl"
    file.parent.mkdir(parents=True)
    file.write_text("".join(json.dumps(entry) + "\n" for entry in written))

    model.script("Mine.", "Theirs.")
    assert daemon.session("new", "Go on", resume=str(file)).text() == "Mine."
    ours = model.requests[-1].conversation
    assert_summary(ours[0], "So far.")
    assert ours[1:] == [
        ("user", "kept"), ("assistant", "short"), ("user", "public"), ("assistant", "told"), ("user", "Go on"),
    ]
    # What nobody understands stays in the file, and what was used without a message counts.
    assert entries(file)[: len(written)] == written
    assert daemon.inspect("new")["tokens"]["input"] >= 5 * 5
    daemon.stop_session("new")
    pi.prompt("And you", file)
    assert model.requests[-1].conversation == [*ours, ("assistant", "Mine."), ("user", "And you")]
    assert_one_branch(file)
