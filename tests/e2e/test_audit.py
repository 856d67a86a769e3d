"""The audit log: what is in it, what is not, and that neither changes nor crashes go unnoticed."""

import hashlib
import itertools
import json
import os
import signal
from functools import partial
from pathlib import Path

import pytest

from support.daemon import API_KEY, BINARY
from support.keys import new_user
from support.model_script import Text, ToolCall
from support.waiting import eventually

FAULTY = os.environ.get("NATS_PI_BRIDGE_FAULTY") or f"{BINARY}-fault"


def audited(new_daemon, *arguments, binary=BINARY, **config):
    daemon = new_daemon(binary=binary)
    daemon.config.update(audit=True, **config)
    return daemon.start(*arguments)


def files(daemon):
    return sorted((daemon.state_dir / "audit").glob("*.jsonl"))


def lines(daemon, *events):
    """The whole lines of the log, all or those of some events."""
    text = "".join(path.read_text() for path in files(daemon))
    found = [json.loads(line) for line in text.split("\n")[:-1]]
    return [line for line in found if not events or line["event"] in events]


def verify(daemon, *arguments):
    """What `audit verify` says, and whether the log fits."""
    done = daemon.run_to_end("audit", "verify", *arguments)
    assert done.returncode in (0, 1), done
    return done.returncode == 0, done.stdout + done.stderr


def sha256(text):
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.any_server
def test_what_is_recorded_and_what_is_not(new_daemon, model):
    daemon = audited(new_daemon)
    model.script([ToolCall("bash", {"command": "echo secret-output; exit 3"}, id="call_1")], "secret-answer", "more")
    assert daemon.session("s", "secret-prompt", **{"from": "ci"}).text() == "secret-answer"
    daemon.bus.ask_json(f"{daemon.subject('s')}.configure", {"thinkingLevel": "off"})
    daemon.run("secret-run").text()
    daemon.stop_session("s")
    daemon.signal()
    assert daemon.wait_exit() == 0
    of_session = [line for line in lines(daemon) if line.get("session") == "s"]
    assert [line["event"] for line in of_session] == [
        "session_created", "prompt", "gate", "gate", "tool_begun", "tool_ended", "gate", "session_configured",
        "session_stopped",
    ]
    created, prompt, asked, decided, begun, ended, again, configured, stopped = of_session
    assert (created["model"], created["cwd"], created["from"]) == ("scripted/one", str(daemon.cwd), "ci")
    assert (prompt["text"], prompt["from"], prompt["sender"]) == (sha256("secret-prompt"), "ci", None)
    assert asked["allowed"] and asked["model"] == again["model"] == "scripted/one" and asked["mayTake"]["money"] > 0.1
    arguments = sha256('{"command":"echo secret-output; exit 3"}')
    call = {"call": "call_1", "tool": "bash", "arguments": arguments}
    assert decided["allowed"] and decided["tools"] == [{**call, "rule": None, "do": "run"}]
    assert {key: begun[key] for key in call} == call and begun["sandbox"] in ("none", "net", "files", "full")
    assert (ended["call"], ended["error"], ended["exit"]) == ("call_1", True, 3) and len(ended["result"]) == 64
    assert configured["thinkingLevel"] == "off" and stopped["reason"] == "stopped"
    assert lines(daemon)[0]["event"] == "opened" and lines(daemon)[1]["event"] == "daemon_started"
    assert lines(daemon)[-1]["event"] == "daemon_stopped"
    text = files(daemon)[0].read_text()
    assert not any(word in text for word in ("secret-", API_KEY))
    assert files(daemon)[0].stat().st_mode & 0o777 == 0o600
    assert files(daemon)[0].parent.stat().st_mode & 0o777 == 0o700
    fits, words = verify(daemon)
    assert fits and f"lines 1 to {len(lines(daemon))}" in words
    # The chain goes on with the next start.
    before = lines(daemon)[-1]
    daemon.start()
    (first, *_) = eventually(lambda: lines(daemon)[len(text.splitlines()):], "the next line is written")
    assert first["prev"] == before["hash"]
    assert verify(daemon)[0]


@pytest.mark.any_server
def test_a_refusal_of_a_budget_is_a_decision(new_daemon, model):
    daemon = audited(new_daemon, budgets={"day": {"requests": 0}})
    daemon.run("go").failure()
    (gate,) = eventually(lambda: lines(daemon, "gate"), "it is written")
    assert not gate["allowed"] and gate["reason"].startswith("budget_exceeded: day.requests")


@pytest.mark.any_server
def test_rules_and_approvals_are_decisions(new_daemon, model):
    daemon = audited(new_daemon, rules=[{"tool": "bash", "match": "touch*", "do": "ask"},
                                        {"tool": "bash", "match": "rm*", "do": "deny"}])
    model.script([ToolCall("bash", {"command": f"{program} x"}, id=program) for program in ("touch", "rm", "true")], "done")
    events = daemon.bus.listen(f"agents.ev.{daemon.owner}.s.question")
    stream = daemon.session("s", "go", events=True)
    opened = json.loads(events.message().data)["data"]["request"]
    begun = eventually(lambda: lines(daemon, "tool_begun"), "the call that needs nobody has begun")
    assert [line["call"] for line in begun] == ["true"]
    approve = {"requestId": opened["id"], "hash": opened["hash"], "allow": True}
    assert daemon.bus.ask_json(f"{daemon.subject('s')}.approve", approve)["allowed"]
    assert stream.text() == "done"
    (gate,) = (line for line in lines(daemon, "gate") if "tools" in line)
    assert [(call["call"], call["do"], call["rule"]) for call in gate["tools"]] == [
        ("touch", "ask", "bash touch*"), ("rm", "deny", "bash rm*"), ("true", "run", None),
    ]
    assert gate["tools"][0]["approval"] == opened["id"] and gate["tools"][1]["by"] == "rule"
    (approval,) = lines(daemon, "approval")
    assert (approval["approval"], approval["call"], approval["allowed"], approval["by"]) == (opened["id"], "touch", True, "person")
    assert [line["call"] for line in lines(daemon, "tool_begun")] == ["true", "touch"]
    # With nobody there.
    events.leave()
    daemon.bus.ask_json(f"{daemon.subject('s')}.configure", {"events": False})
    model.script([ToolCall("bash", {"command": "touch y"}, id="late")], "sorry")
    assert daemon.prompt("s", "go").text() == "sorry"
    denied = lines(daemon, "approval")[1]
    assert (denied["allowed"], denied["by"], denied["sender"]) == (False, "nobody", None)
    assert verify(daemon)[0]


def test_heads_are_signed_and_find_an_end_that_was_cut_off(tmp_path, own_server, own_bus, new_daemon, model):
    key, seed = new_user()
    server = own_server(f"authorization {{ users: [ {{ nkey: {key} }} ] }}")
    path = tmp_path / "user.nk"
    path.write_text(seed)
    path.chmod(0o600)
    daemon = new_daemon(server.url, own_bus(server.url, nkeys_seed_str=seed))
    daemon.config.update(audit=True, nkey=str(path))
    daemon.start()
    published = daemon.bus.listen(f"agents.ev.{daemon.owner}.audit")
    model.answer(lambda _request: "done")
    daemon.session("s", "go").text()
    heads = [published.message()]
    head = json.loads(heads[0].data)
    assert head["user"] == key and head["seq"] >= 4
    daemon.run("go").text()
    heads.append(published.message())
    daemon.signal()
    assert daemon.wait_exit() == 0
    heads.append(published.message())
    kept = tmp_path / "heads.jsonl"
    kept.write_bytes(b"".join(message.data + b"\n" for message in heads))
    fits, words = verify(daemon, "--heads", str(kept))
    assert fits and "3 of 3 heads are in it" in words and key in words
    (log,) = files(daemon)
    whole = log.read_bytes()
    # The last line is gone, which only a head can tell.
    log.write_bytes(whole[: whole[:-1].rindex(b"\n") + 1])
    assert verify(daemon)[0]
    fits, words = verify(daemon, "--heads", str(kept))
    assert not fits and "its end was cut off" in words
    log.write_bytes(whole)
    # A head that somebody made up, and a line that is none.
    forged = kept.read_text().replace(head["hash"], "0" * 64)
    for text, expected in [(forged, ":1: the signature of the head is not"), ("x\n", ":1: the line is no head")]:
        kept.write_text(text)
        fits, words = verify(daemon, "--heads", str(kept))
        assert not fits and expected in words


@pytest.mark.any_server
def test_a_change_is_found_and_ends_the_start(new_daemon, model):
    daemon = audited(new_daemon)
    model.answer(lambda _request: "done")
    daemon.run("go").text()
    daemon.signal()
    assert daemon.wait_exit() == 0
    (log,) = files(daemon)
    whole = log.read_text()
    log.write_text(whole.replace("scripted/one", "scripted/two", 1))
    line = 1 + whole[: whole.index("scripted/one")].count("\n")
    fits, words = verify(daemon)
    assert not fits and f"{log.name}:{line}: the line is not what its hash says" in words
    # What a crash leaves is something else.
    log.write_text(whole[:-20])
    fits, words = verify(daemon)
    assert fits and "the last line is not whole" in words
    # Nothing can follow a line that was changed.
    log.write_text(whole.replace('"daemon_stopped"', '"daemon_storped"'))
    done = daemon.run_to_end()
    assert done.returncode == 1 and "the last line does not fit" in done.stderr


def test_verify_says_how_it_is_used(new_daemon):
    daemon = new_daemon()
    for arguments in [("audit",), ("audit", "repair"), ("audit", "verify", "--check"), ("audit", "verify", "--odd")]:
        assert daemon.run_to_end(*arguments).returncode == 2, arguments
    assert verify(daemon)[0] is False, "there is no log"


def effects(daemon):
    path = daemon.cwd / "log"
    return len(path.read_text().split()) if path.exists() else 0


def script(model, daemon):
    def answer(request):
        done = len(request.tool_results)
        command = f"echo {done} >> {daemon.cwd}/log"
        return [Text("Done.") if done == 2 else ToolCall("bash", {"command": command}, id=f"call_{done}")]

    model.answer(answer)


def serves(daemon):
    try:
        return "sessions" in daemon.list(timeout=2)
    except AssertionError:  # No responders, or no answer.
        return False


needs_faults = pytest.mark.skipif(
    not Path(FAULTY).exists(), reason="needs a build with the feature `fault`; scripts/test makes one"
)


def is_dead_or(what, daemon):
    return not daemon.running() or what(daemon)


def is_done(daemon):
    return lines(daemon, "tool_ended")[1:2] and lines(daemon, "gate")[4:5]


@needs_faults
@pytest.mark.any_server
def test_no_crash_has_an_effect_that_is_not_recorded(new_daemon, model):
    """The daemon dies in or behind each write of a prompt with two tools."""
    for n in itertools.count(1):
        model.requests.clear()
        daemon = new_daemon(binary=FAULTY)
        daemon.config["audit"] = True
        script(model, daemon)
        daemon.environment["NATS_PI_BRIDGE_FAULT"] = f"write:{n}:{'torn' if n % 2 else 'kill-after'}"
        daemon.spawn()
        eventually(partial(is_dead_or, serves, daemon), "it serves or is dead")
        if daemon.running():
            daemon.session("s", "go")
            eventually(partial(is_dead_or, is_done, daemon), "dead or done")
            if daemon.running():
                break
        assert daemon.wait_exit() == -signal.SIGKILL
        if files(daemon):
            fits, words = verify(daemon)
            assert fits, (n, words)
            assert effects(daemon) <= len(lines(daemon, "tool_begun"))
            assert len(model.requests) <= len([line for line in lines(daemon, "gate") if "model" in line])
        del daemon.environment["NATS_PI_BRIDGE_FAULT"]
        # What was cut off is known from then on, and the chain goes on.
        daemon.start()
        fits, words = verify(daemon)
        assert fits and "not whole" not in words, (n, words)
        daemon.close()
    # As many writes as there are for certain; the last one may come when all is done.
    assert n > 15


@needs_faults
@pytest.mark.any_server
def test_nothing_is_done_that_a_full_disk_cannot_record(new_daemon, model):
    unwritten = 0
    for n in itertools.count(2):
        daemon = new_daemon(binary=FAULTY)
        daemon.config["audit"] = True
        script(model, daemon)
        model.requests.clear()
        daemon.environment["NATS_PI_BRIDGE_FAULT"] = f"write:{n}:enospc"
        daemon.start()
        stream = daemon.session("s", "go")
        try:
            heard = stream.text()
        except AssertionError as failed:
            heard = str(failed)
        assert heard == "Done." or "storage_error" in heard, (n, heard)
        daemon.signal()
        assert daemon.wait_exit() == 0
        fits, words = verify(daemon)
        assert fits, (n, words)
        assert effects(daemon) <= len(lines(daemon, "tool_begun"))
        assert len(model.requests) <= len([line for line in lines(daemon, "gate") if "model" in line])
        # There is room again for what had happened meanwhile.
        assert lines(daemon)[-1]["event"] == "daemon_stopped"
        # Whether somebody waits for just the line that did not fit is a matter of which thread came first.
        unwritten += "the audit log cannot be written" in daemon.log_text()
        if heard == "Done." and "cannot be written" not in daemon.log_text() and n > 25:
            break
    assert unwritten > 1
