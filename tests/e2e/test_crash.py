"""The daemon dies at every single write of a prompt with three tools, and nothing that was promised is lost."""

import itertools
import json
import os
import signal
from pathlib import Path

import pytest

from support.bus import StreamFailed
from support.daemon import BINARY
from support.model_script import Stall, Text, ToolCall
from support.waiting import eventually

FAULTY = os.environ.get("NATS_PI_BRIDGE_FAULTY") or f"{BINARY}-fault"
TOOLS = 3
# The writes that make a session: its file's header and three facts, and the daemon's note of it.
CREATION = 5

pytestmark = pytest.mark.skipif(
    not Path(FAULTY).exists(), reason="needs a build with the feature `fault`; scripts/test makes one"
)


def script(model, log):
    """Three answers with a tool each, then a last one, as far as the conversation has come."""

    def answer(request):
        if request.prompts[-1] == "still there?":
            return [Text("Yes.")]
        done = len(request.tool_results)
        if done < TOOLS:
            return [Text(f"Step {done}. "), ToolCall("bash", {"command": f"echo {done} >> {log}"}, id=f"call_{done}")]
        return [Text("Done.")]

    model.answer(answer)


def check_pairs(request):
    """Every call has exactly one result, in the message right behind it."""
    for message, following in itertools.pairwise([*request.body["messages"], {"content": []}]):
        def ids(content, kind, key):
            return sorted(block[key] for block in content if isinstance(block, dict) and block.get("type") == kind)

        assert ids(message["content"], "tool_use", "id") == ids(following["content"], "tool_result", "tool_use_id")


def drain(stream):
    """What the caller has heard when the stream ends, however it ends."""
    try:
        return stream.text()
    except StreamFailed as failed:
        stream.terminator()
        return stream.so_far() + failed.text


def life_and_death(daemon, model, fault):
    """One life until the fault, then another one, with all promises checked. False if the fault did not happen."""
    log = daemon.cwd / "log"
    script(model, log)
    daemon.environment["NATS_PI_BRIDGE_FAULT"] = fault
    daemon.start()
    stream = daemon.session("crash", "go")
    eventually(lambda: not daemon.running() or not daemon.inspect_if_there("crash")["activeRequest"], "dead or done")
    if daemon.running():
        drain(stream)
        daemon.signal(signal.SIGTERM)
        daemon.wait_exit()
        return False
    assert daemon.wait_exit() == -signal.SIGKILL
    del daemon.environment["NATS_PI_BRIDGE_FAULT"]
    daemon.start()
    accepted = any("nats-pi-bridge.accepted" in path.read_text() for path in daemon.session_files())
    there = "crash" in daemon.session_ids()
    # Whoever heard anything had been accepted, and what was accepted is still there.
    assert there or not (accepted or stream.pending()), fault
    if there:
        if accepted:
            # The turn goes on by itself.
            assert drain(stream).endswith("Done."), fault
        assert daemon.prompt("crash", "still there?").text() == "Yes.", fault
        daemon.stop_session("crash")
    ran = log.read_text().split() if log.exists() else []
    assert len(ran) == len(set(ran)), f"{fault}: a tool ran twice: {ran}"
    for request in model.requests:
        check_pairs(request)
    for path in daemon.session_files() if there else []:
        first, *_ = [json.loads(line) for line in path.read_text().splitlines()]
        assert first["type"] == "session", fault
    daemon.signal(signal.SIGTERM)
    daemon.wait_exit()
    return True


@pytest.mark.parametrize("what", ["kill", "kill-after", "torn"])
@pytest.mark.parametrize("part", [0, 1])
def test_every_write_may_be_the_last(new_daemon, model, what, part):
    """The odd or the even writes, to use two workers."""
    for n in itertools.count(1 + part, 2):
        model.requests.clear()
        if not life_and_death(new_daemon(binary=FAULTY), model, f"write:{n}:{what}"):
            break
    # Creation, three tools with intent, call and result, two more messages, records: far more than this.
    assert n > 15


def test_the_end_of_a_prompt_that_is_not_gone_on_with_is_heard(new_daemon, model):
    """Whichever write of the next start is its last."""
    for n in itertools.count(1):
        model.script(["half", Stall()])
        daemon = new_daemon(binary=FAULTY)
        daemon.config["onRestart"] = "hold"
        daemon.start()
        stream = daemon.session("held", "go")
        stream.until("half")
        daemon.signal(signal.SIGKILL)
        daemon.wait_exit()
        daemon.environment["NATS_PI_BRIDGE_FAULT"] = f"write:{n}:kill-after"
        daemon.spawn()
        settled = "nats-pi-bridge.settled"
        eventually(lambda: not daemon.running() or settled in daemon.session_files()[0].read_text(), "dead or done")
        daemon.signal(signal.SIGTERM)
        lived = daemon.wait_exit() == 0
        del daemon.environment["NATS_PI_BRIDGE_FAULT"]
        daemon.start()
        assert stream.failure().word == "interrupted", n
        daemon.close()
        if lived:
            break
    assert n > 1


def test_a_full_disk_stops_the_prompt_and_not_the_session(new_daemon, model):
    refused = set()
    for n in itertools.count(1):
        daemon = new_daemon(binary=FAULTY)
        script(model, daemon.cwd / "log")
        daemon.environment["NATS_PI_BRIDGE_FAULT"] = f"write:{n}:enospc"
        daemon.start()
        heard = drain(daemon.session("full", "go"))
        if "storage_error" in heard:
            refused.add(n)
        answer = ""
        # A session that could not even be made is gone; any other one works again, as there is room again.
        if not (n in refused and n <= CREATION):
            answer = drain(daemon.prompt("full", "still there?"))
        daemon.close()
        if "storage_error" in answer:
            # The first prompt had come to its end before this write, which was that of the second one's acceptance.
            assert heard.endswith("Done.")
            break
        assert n <= CREATION or answer == "Yes.", n
    # All writes but the note that the daemon makes of the session, and the record that a prompt is answered.
    assert len(refused) >= n - 3, refused
