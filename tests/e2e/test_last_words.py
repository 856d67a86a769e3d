"""The end of an answer is recorded once it has left the process, so that a crash in between loses it for nobody."""

import pytest

from support.model_script import Gate
from support.session_files import kill, only_entries, roles
from support.waiting import eventually


@pytest.mark.parametrize("answer", ["done", "interrupted"])
def test_an_end_that_has_not_left_is_not_recorded(new_daemon, own_server, own_bus, model, answer):
    server = own_server("")
    daemon = new_daemon(server.url, bus=own_bus(server.url))
    daemon.config["onRestart"] = "continue" if answer == "done" else "hold"
    daemon.start()
    gate = Gate()
    model.script(["begin ", gate, "never"])
    stream = daemon.session("s", "go")
    stream.until("begin ")
    kill(daemon)
    gate.open()
    # Whatever is said in this process's life does not reach anybody.
    server.freeze()
    model.script("end")
    daemon.spawn()
    if answer == "done":
        eventually(lambda: roles(daemon)[-1] == "assistant", "the answer is on disk")
    else:
        daemon.wait_log("the prompt that was interrupted is closed")

    def is_settled():
        return any(entry.get("customType", "").endswith("settled") for entry in only_entries(daemon))

    with pytest.raises(AssertionError):
        eventually(is_settled, "its end is recorded though nobody can have heard it", timeout=0.5)
    kill(daemon)
    server.thaw()
    daemon.start()
    if answer == "done":
        assert stream.text().endswith("end")
    else:
        assert stream.failure().word == "interrupted"
    eventually(is_settled, "it is settled")
