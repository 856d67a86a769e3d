"""One-shot prompts."""

from support.model_server import Gate, Text


def test_text_streams_piece_by_piece_and_ends_with_an_empty_message(daemon, model):
    gate = Gate()
    model.script(["Hello, ", gate, "world"])
    stream = daemon.run("greet")
    # The first piece arrives while the model is still held at the gate.
    assert stream.until("Hello, ") == "Hello, "
    assert daemon.list()["runs"]
    gate.open()
    assert stream.text() == "Hello, world"
    daemon.assert_nothing_follows(stream)
