"""What one call of a tool may cost: memory for pictures and patterns, and time after an abort."""

import base64
import json
import struct
import time
import zlib

import pytest

from support import proc
from support.bridge import Bridge
from support.model_script import ToolCall
from support.pictures import chunk
from support.waiting import eventually

pytestmark = pytest.mark.any_server

MIB = 1024 * 1024
# Abort is answered within 0.3 s; the rest is room for a machine that has other work. What is aborted here would take longer.
ANSWERED = 5.0


def grey_png(width, height):
    """A PNG without a pixel that is not black, a thousandth as large as what it unpacks to."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    packer = zlib.compressobj(9)
    rows = b"".join([packer.compress(bytes(1 + width)) for _ in range(height)] + [packer.flush()])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def grey_jpeg(width, height):
    """A JPEG whose blocks of 64 pixels have two bits each."""
    frame = b"\xff\xc0\0\x0b\x08" + struct.pack(">HH", height, width) + b"\x01\x01\x11\0"
    tables = b"".join(b"\xff\xc4\0\x14" + bytes([kind, 1, *[0] * 15, 0]) for kind in (0x00, 0x10))
    scan = b"\xff\xda\0\x08\x01\x01\0\0\x3f\0" + bytes(width * height // 256 + 1)
    return b"\xff\xd8\xff\xdb\0\x43\0" + bytes([1] * 64) + frame + tables + scan + b"\xff\xd9"


def peak(pid):
    """The most memory that was resident so far, in bytes."""
    return int(proc.status(pid)["VmHWM"].split()[0]) * 1024


@pytest.fixture
def searching(new_daemon):
    """A daemon whose sessions have all tools that search."""
    daemon = new_daemon()
    daemon.config["tools"] = ["grep", "find", "ls"]
    daemon.start()
    return daemon


def cost_of(daemon, model, *calls):
    """What a model is told about calls, and how much more memory than before they took."""
    def peaks():
        return sum(peak(pid) for pid in proc.with_runners(daemon.pid))

    # A first call has the process begin in which tools run.
    model.script([ToolCall(calls[0].name, {"path": "nothing", "pattern": "x"})], "ready")
    daemon.session("c", "ready?").text()
    before = peaks()
    model.script(list(calls), "done")
    # A build for tests is many times slower than a release.
    assert daemon.prompt("c", "go").text(120) == "done"
    return model.requests[-1].tool_results[1:], peaks() - before


def cpu_seconds(daemon):
    return sum(proc.cpu_seconds(pid) for pid in proc.with_runners(daemon.pid))


def abort_during(daemon, model, call, working):
    """Aborts once a call works; returns how long that took in seconds, and has the session do something else."""
    model.script("made")
    daemon.session("s", "start").text()
    model.script([call])
    with Bridge(daemon.session_socket("s")) as client:
        client.wait_idle()
        used = cpu_seconds(daemon)
        client.ask("prompt", id=1, message="go", stream=True)
        eventually(lambda: working() and cpu_seconds(daemon) - used > 0.1, "it works")
        start = time.monotonic()
        assert client.ask("abort")["isIdle"] is True
        return time.monotonic() - start


def test_a_small_file_with_many_pixels_is_not_unpacked(daemon, model):
    picture = grey_png(8000, 8000)
    assert len(picture) < 70_000
    (daemon.cwd / "a.png").write_bytes(picture)
    results, cost = cost_of(daemon, model, ToolCall("read", {"path": "a.png"}))
    assert "more than 24 megapixels" in results[0][0]
    assert cost < 32 * MIB, f"{cost / MIB:.0f} MiB"


def test_the_largest_picture_takes_little_more_than_its_pixels(daemon, model):
    (daemon.cwd / "a.png").write_bytes(grey_png(6000, 4000))
    results, cost = cost_of(daemon, model, ToolCall("read", {"path": "a.png"}))
    assert "original 6000x4000, displayed at 2000x1333" in results[0][0]
    # Three bytes a pixel are 69 MiB.
    assert cost < 160 * MIB, f"{cost / MIB:.0f} MiB"


@pytest.mark.parametrize("name, make", [("a.png", grey_png), ("a.jpg", grey_jpeg)])
def test_an_abort_does_not_wait_for_a_picture(daemon, model, name, make):
    (daemon.cwd / name).write_bytes(make(6000, 4000))
    call = ToolCall("read", {"path": name})
    took = abort_during(daemon, model, call, lambda: any("image" in proc.threads(pid) for pid in proc.with_runners(daemon.pid)))
    assert took < ANSWERED
    # It is not waited for later, either.
    model.script("fine")
    assert daemon.prompt("s", "and now?").text() == "fine"


def test_an_abort_does_not_wait_for_a_picture_of_the_prompt(daemon, model):
    model.script("made")
    daemon.session("s", "start").text()
    data = base64.b64encode(grey_png(6000, 4000)).decode()
    with Bridge(daemon.session_socket("s")) as client:
        client.wait_idle()
        content = [{"type": "text", "text": "look"}, {"type": "image", "data": data, "mimeType": "image/png"}]
        client.ask("prompt", content=content)
        eventually(lambda: "image" in proc.threads(daemon.pid), "it is looked at")
        start = time.monotonic()
        assert client.ask("abort")["isIdle"] is True
        assert time.monotonic() - start < ANSWERED
    assert "image/png" not in json.dumps([request.body for request in model.requests])


@pytest.mark.parametrize("pattern", [r"\w{200}", r"\w{1000}", r"\w{5000}", r"(?:\w+\s+){100}zz", r"\w{1000}{1000}", r"\w" * 2000, r"\w" * 500_000])
def test_a_pattern_takes_little_memory_or_is_refused(searching, model, pattern):
    (searching.cwd / "a.txt").write_text("word and word\n" * 1000)
    results, cost = cost_of(searching, model, ToolCall("grep", {"pattern": pattern}))
    text, is_error = results[0]
    assert (is_error and "use a " in text) or text == "No matches found"
    assert cost < 128 * MIB, f"{cost / MIB:.0f} MiB"


@pytest.mark.parametrize("pattern", ["{" * 300_000 + "}" * 300_000, "{" * 2000 + "}" * 2000, "[" * 5000])
def test_a_glob_pattern_may_be_anything(searching, model, pattern):
    (searching.cwd / "a.txt").write_text("x")
    calls = [ToolCall("find", {"pattern": pattern}), ToolCall("grep", {"pattern": "x", "glob": pattern})]
    results, cost = cost_of(searching, model, *calls)
    assert len(results) == 2
    assert cost < 128 * MIB, f"{cost / MIB:.0f} MiB"


def test_ignore_rules_may_be_anything(searching, model):
    (searching.cwd / "a.txt").write_text("x")
    (searching.cwd / ".gitignore").write_text("{" * 20_000 + "}" * 20_000)
    results, _ = cost_of(searching, model, ToolCall("find", {"pattern": "*"}), ToolCall("grep", {"pattern": "x"}))
    assert all(is_error and "too many braces" in text for text, is_error in results)


@pytest.mark.parametrize("lines", [1, 1000], ids=["one long line", "many lines"])
def test_an_abort_does_not_wait_for_a_pattern(searching, model, lines):
    (searching.cwd / "a.txt").write_text(("some words and more " * (1_000_000 // lines) + "\n") * lines)
    call = ToolCall("grep", {"pattern": r"(?:\w+\s+){50}zz"})
    assert abort_during(searching, model, call, lambda: True) < ANSWERED


@pytest.mark.parametrize(
    "call",
    [ToolCall("find", {"pattern": "*.zz"}), ToolCall("grep", {"pattern": "zz"}), ToolCall("ls", {"path": "many"})],
    ids=lambda call: call.name,
)
def test_an_abort_does_not_wait_for_a_large_folder(searching, model, call):
    folder = searching.cwd / "many"
    folder.mkdir()
    for number in range(40_000):
        (folder / f"{number}.o").touch()
    (searching.cwd / ".gitignore").write_text("*.o\n")
    assert abort_during(searching, model, call, lambda: True) < ANSWERED
