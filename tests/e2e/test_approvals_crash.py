"""The daemon dies at every single write of a prompt whose only call needs an approval: it runs at most once, and never unapproved."""

import itertools
import os
import signal
from pathlib import Path

import pytest

from support.bridge import Bridge
from support.daemon import BINARY
from support.model_script import Text, ToolCall
from support.waiting import eventually

FAULTY = os.environ.get("NATS_PI_BRIDGE_FAULTY") or f"{BINARY}-fault"

pytestmark = [
    pytest.mark.any_server,
    pytest.mark.skipif(not Path(FAULTY).exists(), reason="needs a build with the feature `fault`; scripts/test makes one"),
]


def settle(daemon, allow):
    """Settles the approval as soon as it is open; True if the daemon said that this counts. A daemon that dies meanwhile says
    nothing."""
    try:
        with Bridge(daemon.socket) as client:
            open_now = client.ask("questions", session="s")["questions"]
            if not open_now:
                return False
            request = open_now[0]["request"]
            return client.exchange(
                "approve", session="s", requestId=request["id"], hash=request["hash"], allow=allow
            )["success"]
    except (AssertionError, OSError, ValueError):
        return False


def active(daemon):
    return daemon.running() and daemon.inspect_if_there("s")["activeRequest"]


def life_and_death(daemon, model, fault, allow):
    """One life until the fault, then another one. False if the fault did not happen."""
    log = daemon.cwd / "log"

    def answer(request):
        if request.tool_results:
            return [Text("Done.")]
        return [ToolCall("bash", {"command": f"echo ran >> {log}"}, id="call_0")]

    model.answer(answer)
    daemon.config.update(rules=[{"tool": "bash", "match": "echo*", "do": "ask"}], unattended="wait")
    daemon.environment["NATS_PI_BRIDGE_FAULT"] = fault
    daemon.start()
    daemon.session("s", "go", tools=["bash"])
    said = []

    def over(may_be_dead):
        if settle(daemon, allow):
            said.append(allow)
        return not active(daemon) if daemon.running() else may_be_dead

    eventually(lambda: over(True), "dead or done")
    if daemon.running():
        daemon.signal(signal.SIGTERM)
        daemon.wait_exit()
        return False
    assert daemon.wait_exit() == -signal.SIGKILL
    ran_before = log.exists()
    assert allow or not ran_before, fault
    del daemon.environment["NATS_PI_BRIDGE_FAULT"]
    daemon.start()
    if "s" in daemon.session_ids():
        eventually(lambda: over(False), "done after the restart")
        daemon.stop_session("s")
    assert len(said) <= 1, f"{fault}: it was settled twice"
    ran = log.read_text().split() if log.exists() else []
    assert len(ran) <= int(allow), f"{fault}: {ran}"
    results = [result for request in model.requests for result in request.tool_results]
    for text, error in results:
        assert error or ran, f"{fault}: {text}"
    daemon.signal(signal.SIGTERM)
    daemon.wait_exit()
    return True


@pytest.mark.parametrize("what", ["kill", "kill-after"])
@pytest.mark.parametrize("allow", [True, False], ids=["yes", "no"])
def test_every_write_may_be_the_last(new_daemon, model, what, allow):
    # The first writes make the session, which other tests are about.
    for n in itertools.count(6):
        model.requests.clear()
        if not life_and_death(new_daemon(binary=FAULTY), model, f"write:{n}:{what}", allow):
            break
    # Accepted, question, approval, intent, results: there are at least so many.
    assert n > 10
