"""scripts/bench measures, compares, and leaves nothing running. How fast anything is does not matter here."""

import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest

from support.daemon import BINARY
from support.waiting import DEADLINE, eventually

SCRIPT = Path(__file__).parents[2] / "scripts/bench"
LOAD = os.environ.get("BENCH_LOAD") or str(SCRIPT.parents[1] / "target/debug/examples/bench-load")
METRICS = [
    "size", "start", "memory", "memory", "shutdown", "one-shot", "follow-up", "one-shot", "creation", "latency", "chunks",
    "run", "processors",
]


@pytest.fixture
def folder():
    """The name of a test's own folder is too long for the sockets in it."""
    path = Path(tempfile.mkdtemp(prefix="bench-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


def environment(folder):
    return {**os.environ, "NATS_PI_BRIDGE": BINARY, "BENCH_LOAD": LOAD, "TMPDIR": str(folder)}


def bench(folder, *arguments):
    """The lines it prints."""
    done = subprocess.run(
        [SCRIPT, "--quick", *arguments], env=environment(folder), cwd=folder, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


# A slow machine takes its time.
@pytest.mark.timeout(600)
def test_it_measures_and_compares(folder):
    lines = bench(folder, "--save", "before")
    assert [line.split()[0] for line in lines] == ["metric", *METRICS, "chunks:"]
    assert "before" not in lines[0]
    lines = bench(folder, "--broker", "--compare", "before")
    assert [line.split()[0] for line in lines] == ["metric", *METRICS, "chunks:"]
    assert "before" in lines[0]
    assert [path.name for path in folder.iterdir()] == ["before"]


def processes_in(folder):
    """Those whose home is there."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if f"HOME={folder}/".encode() in (path / "environ").read_bytes():
                found.append(path.name)
        except OSError:  # It has ended, or is somebody else's.
            pass
    return found


@pytest.mark.timeout(600)
def test_it_can_be_interrupted(folder):
    process = subprocess.Popen(
        [SCRIPT], env=environment(folder), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    try:
        eventually(lambda: processes_in(folder), "a daemon runs")
        process.send_signal(signal.SIGTERM)
        assert process.wait(DEADLINE) == 130
    finally:
        process.kill()
    assert processes_in(folder) == []
    assert list(folder.iterdir()) == []
