"""How text gets to the caller: sizes, characters, order, and callers and servers that come and go."""

import time

import pytest

from support.daemon import MODELS
from support.model_script import Gate, Text, ToolCall
from support.waiting import eventually

# One, two, three and four bytes long in UTF-8, and one made of several characters.
CHARACTERS = "aé€😀👩‍💻"


def test_pieces_fit_the_servers_limit_and_are_cut_between_characters(own_server, own_bus, new_daemon, model):
    server = own_server("max_payload: 1024")
    bus = own_bus(server.url)
    daemon = new_daemon(server.url, bus).start()
    # All alignments of the characters to the limit.
    texts = ["x" * shift + CHARACTERS * 400 for shift in range(4)]
    model.script(*texts)
    for text in texts:
        stream = daemon.run("long")
        assert stream.text() == text
        assert all(len(piece) <= 1024 for piece in stream.payloads)
        for piece in stream.payloads:
            piece.decode()  # Raises when a character was cut.
        # Cutting makes few pieces, not many small ones.
        assert len(stream.payloads) <= len(text.encode()) // 1000 + 2


def test_one_piece_larger_than_the_usual_limit(daemon, model):
    text = "0123456789abcde\n" * 150_000  # 2.4 MB; the limit is 1 MiB.
    model.script(text)
    assert daemon.run("very long").text() == text


@pytest.mark.parametrize("size", [1, 3, 7])
@pytest.mark.parametrize("spec", MODELS.values(), ids=MODELS)
def test_text_survives_however_the_provider_cuts_it(daemon, model, size, spec):
    model.write_size = size
    model.script([CHARACTERS, "second ", CHARACTERS])
    assert daemon.run("x", model=spec).text() == f"{CHARACTERS}second {CHARACTERS}"


def test_an_empty_piece_is_not_the_end(daemon, model):
    gate = Gate()
    model.script([Text("before "), Text(""), gate, Text(""), Text("after")])
    stream = daemon.run("x")
    stream.until("before ")
    gate.open()
    assert stream.text() == "before after"


def test_strange_characters_arrive_as_they_are(daemon, model):
    text = "nul:\x00 bell:\x07 cr:\r crlf:\r\n tab:\t bom:\ufeff line:\u2028 rtl:\u202e del:\x7f"
    model.script(text)
    assert daemon.run("x").text() == text


def test_two_thousand_pieces_arrive_in_order(daemon, model):
    pieces = [f"{number} " for number in range(2000)]
    model.script(pieces)
    assert daemon.run("count").text() == "".join(pieces)


def test_text_before_a_tool_is_sent_before_the_tool_runs(daemon, model):
    held = daemon.cwd / "held"
    model.script(["Wait. ", ToolCall("bash", {"command": f"while [ ! -e {held} ]; do sleep 0.02; done"})], "Done.")
    stream = daemon.run("x")
    assert stream.until("Wait. ") == "Wait. "
    held.touch()
    assert stream.text() == "Wait. Done."


def test_a_caller_that_vanishes_leaves_the_session_at_work(daemon, model):
    gate = Gate()
    model.script(["one ", gate, "two"], "again")
    stream = daemon.session("s", "x")
    stream.until("one ")
    stream.leave()
    gate.open()
    daemon.wait_session("s", lambda facts: facts["state"] == "idle", "the prompt has ended")
    # Nothing is lost but the answer's way to the caller.
    assert daemon.prompt("s", "y").text() == "again"
    assert model.requests[1].conversation == [("user", "x"), ("assistant", "one two"), ("user", "y")]


def test_a_caller_whose_connection_breaks(daemon, model, nats_server, own_bus):
    gate = Gate()
    model.script(["one ", gate, "two"], "again")
    other = own_bus(nats_server.url)
    request = {"sessionMode": "session", "sessionId": "s", "body": "x", "cwd": str(daemon.cwd)}
    stream = other.request(daemon.intake, request)
    stream.until("one ")
    other.call(other.connection.close())
    gate.open()
    daemon.wait_session("s", lambda facts: facts["state"] == "idle", "the prompt has ended")
    assert daemon.prompt("s", "y").text() == "again"


class TestServerRestart:
    @pytest.fixture
    def server(self, own_server):
        return own_server()

    @pytest.fixture
    def restless(self, server, own_bus, new_daemon):
        return new_daemon(server.url, own_bus(server.url)).start()

    @staticmethod
    def reconnected(daemon):
        """Both the daemon and the caller are back."""
        eventually(lambda: daemon.bus.connection.is_connected, "the caller is back")
        begun = time.monotonic()
        daemon.wait_ready()
        assert time.monotonic() - begun < 5

    def test_a_stream_goes_on_after_a_server_restart(self, server, restless, model):
        gate = Gate()
        model.script(["before ", gate, "after"])
        stream = restless.session("s", "x")
        stream.until("before ")
        server.stop()
        server.start()
        self.reconnected(restless)
        gate.open()
        assert stream.text() == "before after"

    def test_a_turn_works_on_while_the_server_is_away(self, server, restless, model):
        first, second = Gate(), Gate()
        made = restless.cwd / "made"
        model.script(["before ", first, ToolCall("bash", {"command": f"touch {made}"})], [second, "after"])
        stream = restless.session("s", "x")
        stream.until("before ")
        server.stop()
        first.open()
        # Model, tool, model: all without the server.
        second.wait_reached()
        assert made.exists()
        server.start()
        self.reconnected(restless)
        second.open()
        assert stream.text() == "before after"

    def test_everything_is_subscribed_again(self, server, restless, model):
        model.script("ok", "again", "new")
        restless.session("s", "x").text()
        instance = restless.inspect("s")["instanceId"]
        server.stop()
        server.start()
        self.reconnected(restless)
        assert restless.inspect("s")["instanceId"] == instance
        assert restless.bus.ask(f"$SRV.PING.pi-exec.{instance}").data
        assert restless.prompt("s", "y").text() == "again"
        assert restless.session("t", "z").text() == "new"

    def test_text_is_kept_while_the_server_is_frozen(self, server, restless, model):
        gate = Gate()
        pieces = [f"{number:06} " for number in range(3000)]
        model.script(["start ", gate, *pieces])
        stream = restless.session("s", "x")
        stream.until("start ")
        server.freeze()
        try:
            gate.open()
            assert model.requests[0].finished.wait(10), "the model was not read to its end"
        finally:
            server.thaw()
        assert stream.text() == "start " + "".join(pieces)
