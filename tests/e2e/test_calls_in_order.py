"""Calls of one message on one file run in the order in which they stand in it; others run at the same time."""

import os

from support.model_script import ToolCall


def edit(path, old, new):
    return ToolCall("edit", {"path": path, "edits": [{"oldText": old, "newText": new}]})


def test_edits_of_one_file(daemon, model):
    """Six edits that need each other, many times, under all names that the file has."""
    (daemon.cwd / "link").symlink_to("n")
    names = ["n", "./n", str(daemon.cwd / "n"), "link", "x/../n", "n"]
    model.script("ready")
    daemon.session("s", "hi").text()
    for _ in range(20):
        (daemon.cwd / "n").write_text("n=0")
        model.script([edit(name, f"n={at}", f"n={at + 1}") for at, name in enumerate(names)], "done")
        assert daemon.prompt("s", "count").text() == "done"
        assert (daemon.cwd / "n").read_text() == "n=6"
        assert [failed for _, failed in model.requests[-1].tool_results[-6:]] == [False] * 6


def test_a_file_that_is_made_changed_and_read(daemon, model):
    calls = [ToolCall("write", {"path": "new/f", "content": "a"}), edit("new/../new/f", "a", "b"),
             ToolCall("read", {"path": "new/f"}), ToolCall("write", {"path": "new/f", "content": "c"}),
             ToolCall("grep", {"pattern": "c", "path": "new/f"}), edit("new/f", "c", "d"), ToolCall("read", {"path": "new/f"})]
    model.script("ready")
    daemon.session("s", "hi", tools=["+grep"]).text()
    for _ in range(10):
        (daemon.cwd / "new/f").unlink(missing_ok=True)
        model.script(calls, "done")
        assert daemon.prompt("s", "go").text() == "done"
        _, _, first, _, found, _, second = model.requests[-1].tool_results[-len(calls):]
        assert "b" in first[0] and "c" in found[0] and "d" in second[0]


def test_other_calls_do_not_wait(daemon, model):
    """A call that waits for what a later one does, on another file, comes to its end."""
    fifo = daemon.cwd / "fifo"
    os.mkfifo(fifo)
    (daemon.cwd / "n").write_text("n=0")
    calls = [ToolCall("bash", {"command": f"read x < {fifo}; echo got $x"}), edit("n", "n=0", "n=1"),
             ToolCall("bash", {"command": f"echo it > {fifo}"})]
    model.script(calls, "done")
    assert daemon.session("s", "go").text() == "done"
    assert "got it" in model.requests[-1].tool_results[0][0]
