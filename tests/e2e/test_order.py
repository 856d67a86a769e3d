"""What comes after what: tool results before the text that follows from them, event numbers over restarts."""

import json
import signal

from support.agents import prompt
from support.bridge import Bridge
from support.model_script import ToolCall

FIRST_AFTER_A_RESTART = 100_000_000_001


def test_a_tools_result_comes_before_the_text_that_was_written_because_of_it(daemon, model):
    model.script("hello")
    daemon.session("worker", "hi", toolStatus=True).text()
    for _ in range(30):
        model.script([ToolCall("bash", {"command": "true"})], "after")
        chunks = prompt(daemon, "worker", "go").ack().rest()
        kinds = [data.split(":")[0] if kind == "status" else kind for kind, data in chunks]
        assert kinds == ["tool_use", "tool_result", "response", "cost"]
        cost = json.loads(chunks[-1][1].split(":", 1)[1])
        assert cost["total_cost_usd"] >= cost["turn_cost_usd"] > 0


def test_event_numbers_grow_over_restarts(daemon, model):
    model.script("hello")
    daemon.session("worker", "hi").text()
    with Bridge(daemon.socket) as client:
        seen = client.ask("get_state")["lastSeq"]
    assert 0 < seen < 1000
    last = seen
    for restart, kill in enumerate((signal.SIGKILL, signal.SIGTERM), start=1):
        daemon.signal(kill)
        daemon.wait_exit()
        daemon.start()
        for _ in range(12):
            model.script("again")
            assert daemon.prompt("worker", "more").text() == "again"
        with Bridge(daemon.socket) as client:
            client.ask("subscribe", enabled=True, sinceSeq=last)
            gap = client.event("bridge_gap")
            begin = restart * (FIRST_AFTER_A_RESTART - 1)
            # What was said after `last` and before the restart is not kept; that is told, and nothing else is missing.
            assert gap["data"] == {"from": last + 1, "to": begin} and gap["seq"] == begin
            assert client.ask("history", sinceSeq=last)["gap"] == {"from": last + 1, "to": begin}
            assert client.ask("history", sinceSeq=begin)["events"][0]["seq"] == begin + 1
            last = client.ask("get_state")["lastSeq"]
        assert last > begin + 12


def test_many_calls_of_one_answer_run_a_few_at_a_time_and_too_many_not_at_all(daemon, model):
    counted = "n=$(mkdir -p busy; touch busy/$$; ls busy | wc -l; sleep 0.05; rm busy/$$); echo $n >> counts"
    model.script([ToolCall("bash", {"command": counted}) for _ in range(130)], "done")
    assert daemon.run("go").text() == "done"
    counts = [int(line) for line in (daemon.cwd / "counts").read_text().split()]
    assert len(counts) == 128 and 1 < max(counts) <= 8
    results = model.requests[-1].tool_results
    assert len(results) == 130
    assert all("more than 128 calls" in text for text, *_ in results[128:])
    assert not any("more than 128 calls" in text for text, *_ in results[:128])
