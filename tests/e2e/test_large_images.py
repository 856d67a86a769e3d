"""Images of messages: those that are too large for a line, those that are attached, and what the model gets of them."""

import base64
import fcntl
import json
import os
import socket

import pytest

from support.agents import prompt
from support.bridge import Bridge
from support.pictures import png
from support.session_files import messages
from support.strict_model import images
from test_images import with_sight
from test_shutdown_answers import client

pytestmark = pytest.mark.any_server

SMALL = png()
SEALED = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK


# Wider than what models get. What follows its end is no part of the picture, and costs nothing to look through.
WIDE = png(2001, 4)
LARGE = WIDE + bytes(800_000)


@pytest.fixture
def seeing(new_daemon, model):
    daemon = new_daemon()
    with_sight(daemon)
    daemon.start()
    model.script("hello")
    daemon.session("s", "hello").text()
    return daemon


def test_a_large_image_is_sent_and_scaled_once(seeing, model, tmp_path):
    file = tmp_path / "large.png"
    file.write_bytes(LARGE)
    (tmp_path / "small.png").write_bytes(SMALL)
    cli = client(seeing)
    model.script("seen", "again")
    done = cli("send", "--stream", "--session", "s", "--image", file, "--image", tmp_path / "small.png", "look")
    assert (done.returncode, done.stdout.strip()) == (0, "seen"), done.stderr
    scaled, small = images(model.requests[-1])
    assert small == SMALL and len(scaled) < len(LARGE)
    kept = [block["data"] for block in messages(seeing)[2]["content"] if block["type"] == "image"]
    assert [base64.b64decode(data) for data in kept] == [scaled, SMALL]
    assert cli("send", "--stream", "--session", "s", "and now").returncode == 0
    assert images(model.requests[-1]) == [scaled, SMALL]


def memory(data, seals=SEALED):
    kept = os.memfd_create("image", os.MFD_ALLOW_SEALING)
    os.write(kept, data)
    fcntl.fcntl(kept, fcntl.F_ADD_SEALS, seals)
    return kept


def send_along(bridge, descriptors, parts, **fields):
    """Sends a prompt with these parts and descriptors, and closes those; returns the response."""
    content = [{"type": "text", "text": "look"}, *parts]
    record = json.dumps({"type": "prompt", "id": "along", "content": content, "stream": True, **fields}).encode() + b"\n"
    sent = socket.send_fds(bridge.socket, [record], descriptors)
    bridge.send_bytes(record[sent:])
    for descriptor in descriptors:
        os.close(descriptor)
    return bridge.response("along")


ALONG = {"type": "image", "descriptor": True, "mimeType": "image/png"}


def test_only_sealed_memory_is_taken(seeing, model, tmp_path):
    file = tmp_path / "secret.png"
    file.write_bytes(SMALL)
    large = os.memfd_create("image", os.MFD_ALLOW_SEALING)
    os.truncate(large, (32 << 20) + 1)
    fcntl.fcntl(large, fcntl.F_ADD_SEALS, SEALED)
    with Bridge(seeing.session_socket("s")) as bridge:
        for descriptors, part in [
            ([], "has to come along"),
            ([os.open(file, os.O_RDONLY)], "sealed"),
            ([os.open("/dev/zero", os.O_RDONLY)], "sealed"),
            ([memory(SMALL, fcntl.F_SEAL_SHRINK)], "sealed"),
            ([large], "33554433 bytes"),
        ]:
            refused = send_along(bridge, descriptors, [ALONG])
            assert (refused["success"], refused["code"]) == (False, "invalid_request") and part in refused["error"]
        # What nobody asked for is closed, however much it is, and the connection goes on.
        for _ in range(3):
            assert send_along(bridge, [memory(b"x") for _ in range(40)], [{"type": "image"}])["success"] is False
    with Bridge(seeing.session_socket("s")) as bridge:
        model.script("seen")
        assert send_along(bridge, [memory(SMALL), memory(LARGE)], [ALONG, ALONG])["success"] is True
        bridge.next(lambda record: record["type"] == "end")
    first, scaled = images(model.requests[-1])
    assert first == SMALL and len(scaled) < len(LARGE)


def test_images_may_stand_beside_a_message(seeing, model):
    image = {"type": "image", "data": base64.b64encode(SMALL).decode(), "mimeType": "image/png"}
    with Bridge(seeing.session_socket("s")) as bridge:
        model.script("seen")
        bridge.ask("prompt", message="look", images=[image], stream=True, id="i")
        bridge.next(lambda record: record["type"] == "end")
        assert images(model.requests[-1]) == [SMALL]
        for wrong in ("x", [1], ["text"], [{"type": "image"}], {}):
            assert bridge.refusal("prompt", message="look", images=wrong) == "images must be a list of images"


def test_attached_images_are_shown_to_the_model(seeing, model):
    """Whatever they are called; and as files they are there as well, for tools."""
    files = {"shot.png": SMALL, "wide": WIDE, "notes.txt": b"hello", "no.png": b"no image"}
    attached = [{"filename": name, "content": base64.b64encode(data).decode()} for name, data in files.items()]
    model.script("seen", "again")
    assert prompt(seeing, "s", {"prompt": "look", "attachments": attached}).ack().text() == "seen"
    first, scaled = images(model.requests[-1])
    assert first == SMALL and scaled != WIDE
    text = str(model.requests[-1].prompts[-1])
    assert all(f"/{name}" in text for name in files) and "scaled" not in text
    assert prompt(seeing, "s", "and now").ack().text() == "again"
    assert images(model.requests[-1]) == [first, scaled]
