"""What providers do differently: streams in unusual forms, images in results, answers that are empty."""

import base64
import json
import struct
import zlib

import pytest

from support.daemon import MODELS
from support.model_script import Failure, Raw, Stop, ToolCall
from support.provider_apis import event

pytestmark = pytest.mark.any_server

COMPLETIONS = MODELS["openai-completions"]


def png():
    """The smallest picture: one pixel."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0\0\0\0")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def deltas(*calls):
    """Chunks of openai-completions, each with a piece of a tool call."""
    chunks = [{"id": "c", "choices": [{"index": 0, "delta": {"tool_calls": [call]}}]} for call in calls]
    return Raw("".join(event(chunk) for chunk in chunks))


def piece(arguments, **fields):
    name = fields.pop("name", None)
    return {**fields, "function": {"arguments": arguments, **({"name": name} if name else {})}}


@pytest.mark.parametrize(
    "pieces",
    [
        [piece('{"command": ', id="a", name="bash"), piece('"echo one"}', id="a"), piece('{"command": "echo two"}', id="b", name="bash")],
        [
            piece("", index=0, id="a", name="bash"),
            piece("", index=1, id="b", name="bash"),
            piece('{"command": "echo', index=0),
            piece('{"command": ', index=1),
            piece(' one"}', index=0),
            piece('"echo two"}', index=1),
        ],
        [piece('{"command": "echo one"}', index=0, id="a", name="bash"), piece('{"command": "echo two"}', index=1, id="b", name="bash")],
    ],
    ids=["no index", "interleaved", "in one piece each"],
)
def test_tool_calls_in_pieces_of_every_kind(daemon, model, pieces):
    model.script([deltas(*pieces), Stop("tool_calls")], "done")
    assert daemon.run("go", model=COMPLETIONS).text() == "done"
    assert [text for text, _ in model.requests[1].tool_results] == ["one\n", "two\n"]


def test_a_thought_in_each_of_its_fields(daemon, model):
    chunks = [{"id": "c", "choices": [{"index": 0, "delta": {name: "hidden"}}]} for name in ("reasoning", "reasoning_text")]
    model.script([Raw("".join(event(chunk) for chunk in chunks)), "seen"])
    assert daemon.run("x", model=COMPLETIONS).text() == "seen"


@pytest.mark.parametrize("spec", MODELS.values(), ids=MODELS)
def test_images_that_tools_read_reach_the_model(daemon, model, spec):
    (daemon.cwd / "dot.png").write_bytes(png())
    path = daemon.agent_dir / "models.json"
    models = json.loads(path.read_text())
    for provider in models["providers"].values():
        for definition in provider["models"]:
            definition["input"] = ["text", "image"]
    daemon.write_agent_file("models.json", models)
    model.script([ToolCall("read", {"path": "dot.png"})], "done")
    assert daemon.run("look", model=spec).text() == "done"
    assert base64.b64encode(png()).decode() in json.dumps(model.requests[1].body)
    assert "Read image file [image/png]" in model.requests[1].tool_results[0][0]


@pytest.mark.parametrize("blocked", [False, True], ids=["model is blind", "images are blocked"])
def test_images_are_kept_from_models_that_may_not_see_them(daemon, model, blocked):
    (daemon.cwd / "dot.png").write_bytes(png())
    if blocked:
        daemon.write_agent_file("settings.json", {"images": {"blockImages": True}})
    model.script([ToolCall("read", {"path": "dot.png"})], "done")
    assert daemon.run("look").text() == "done"
    sent = json.dumps(model.requests[1].body)
    assert base64.b64encode(png()).decode() not in sent
    assert ("Image reading is disabled." if blocked else "model does not support images") in sent


@pytest.mark.parametrize("spec", MODELS.values(), ids=MODELS)
def test_a_failed_answer_is_not_part_of_what_follows(daemon, model, spec):
    model.script(Failure(400, "not now"), "fine")
    daemon.session("s", "one", model=spec).failure()
    assert daemon.prompt("s", "two").text() == "fine"
    assert model.requests[1].prompts[-1].endswith("two")
    assert [role for role, _ in model.requests[1].conversation if role == "assistant"] == []
