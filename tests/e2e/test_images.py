"""Damaged images: no conversation dies of one, because none reaches a model."""

import base64
import json
import struct
import zlib

import pytest

from support.bridge import Bridge
from support.daemon import MODELS
from support.model_script import Failure, ToolCall

pytestmark = pytest.mark.any_server


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


IEND = chunk(b"IEND", b"")


def png(rows=None, end=IEND, width=10, height=10):
    packed = zlib.compress(bytes((1 + 3 * width) * height)) if rows is None else rows
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + end


GIF = b"GIF89a\x02\0\x02\0\x81\0\0\0\0\0\xff\0\0\0\xff\0\0\0\xff\x2c\0\0\0\0\x02\0\x02\0\0\x02\x03\x44\x34\x05\0;"
WEBP = base64.b64decode("UklGRhoAAABXRUJQVlA4TA0AAAAvAAAAEAcQERGIiP4HAA==")
# Eight by eight pixels of grey. Both tables have one code, of one bit; the pixels are one code of each.
TABLES = b"".join(b"\xff\xc4\0\x14" + bytes([kind, 1, *[0] * 15, 0]) for kind in (0x00, 0x10))
FRAME = b"\xff\xc0\0\x0b\x08\0\x08\0\x08\x01\x01\x11\0"
SCAN = b"\xff\xda\0\x08\x01\x01\0\0\x3f\0\x3f"
QUANTISATION = b"\xff\xdb\0\x43\0" + bytes([1] * 64)
JPEG = b"\xff\xd8" + QUANTISATION + FRAME + TABLES + SCAN + b"\xff\xd9"

WHOLE = {"a.png": png(), "a.jpg": JPEG, "a.gif": GIF, "a.webp": WEBP}
DAMAGED = {
    "cut.png": png(b"garbage"),
    "half.png": png()[:60],
    "endless.png": png(end=b""),
    "checksum.png": png()[:-5] + b"\0" + png()[-4:],
    "empty.png": png(width=0),
    "short.gif": b"GIF89a\x01\0\x01\0",
    "half.gif": GIF[:-5],
    "garbage.gif": GIF[:-8] + b"\x02\x03\xff\xff\xff\0;",
    "half.jpg": JPEG[:90],
    "endless.jpg": JPEG[:-2],
    "no-tables.jpg": b"\xff\xd8" + FRAME + SCAN + b"\xff\xd9",
    "half.webp": WEBP[:-4],
    "garbage.webp": WEBP[:20] + b"\x5a" * (len(WEBP) - 20),
}


def with_sight(daemon):
    """All models take images."""
    path = daemon.agent_dir / "models.json"
    models = json.loads(path.read_text())
    for provider in models["providers"].values():
        for definition in provider["models"]:
            definition["input"] = ["text", "image"]
    daemon.write_agent_file("models.json", models)


def strict(data, answer="fine"):
    """A provider that refuses these bytes as an image."""
    refused = base64.b64encode(data).decode()
    return lambda request: Failure(400, "Could not process image") if refused in json.dumps(request.body) else answer


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_image_that_is_read_is_left_out(daemon, model, name):
    with_sight(daemon)
    (daemon.cwd / name).write_bytes(DAMAGED[name])
    model.script([ToolCall("read", {"path": name})])
    model.answer(strict(DAMAGED[name]))
    assert daemon.session("s", "look").text() == "fine"
    result, is_error = model.requests[1].tool_results[0]
    assert "[Image omitted: " in result and not is_error
    assert daemon.prompt("s", "and now?").text() == "fine"
    # None of this was a second try.
    assert len(model.requests) == 3


@pytest.mark.parametrize("spec", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("name, data", WHOLE.items(), ids=WHOLE)
def test_a_whole_image_stays_as_it_is(daemon, model, spec, name, data):
    with_sight(daemon)
    (daemon.cwd / name).write_bytes(data)
    model.script([ToolCall("read", {"path": name})], "seen")
    assert daemon.run("look", model=spec).text() == "seen"
    assert base64.b64encode(data).decode() in json.dumps(model.requests[1].body)


def test_images_of_prompts_are_looked_at_too(daemon, model):
    with_sight(daemon)
    model.script("made")
    daemon.session("eyes", "start").text()
    damaged = [DAMAGED["cut.png"], DAMAGED["short.gif"], b"<!DOCTYPE html><title>404</title>"]
    images = [*damaged, GIF]
    parts = [{"type": "image", "data": base64.b64encode(data).decode(), "mimeType": "image/png"} for data in images]
    model.answer(lambda request: next(
        (failure for data in damaged if isinstance(failure := strict(data)(request), Failure)), "seen"
    ))
    with Bridge(daemon.session_socket("eyes")) as client:
        client.wait_idle()
        client.ask("prompt", content=[{"type": "text", "text": "look"}, *parts])
        client.event("agent_settled")
    request = model.requests[1]
    assert request.prompts[-1].startswith("look\n\n") and request.prompts[-1].count("[Image omitted: ") == 3
    # The bytes say what it is, whatever the caller called it.
    sent = [block["source"] for block in request.body["messages"][-1]["content"] if block["type"] == "image"]
    assert [(source["media_type"], base64.b64decode(source["data"])) for source in sent] == [("image/gif", GIF)]
    assert daemon.prompt("eyes", "more").text() == "seen"
