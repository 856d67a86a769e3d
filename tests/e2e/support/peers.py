"""Programs of tests/peers, each in a client that nobody here wrote."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from . import npm
from .waiting import DEADLINE

SOURCES = Path(__file__).parents[2] / "peers"
TARGET = Path(os.environ.get("CARGO_TARGET_DIR") or Path(__file__).parents[3] / "target")
JS_PACKAGES = ["@nats-io/transport-node@3.4.0", "@nats-io/services@3.0.0-25"]


def nats_js(folder):
    npm.required()
    installed = npm.installed("nats-js", JS_PACKAGES)
    # Node looks for packages beside the program.
    shutil.copy(SOURCES / "nats_js.mjs", folder)
    (folder / "node_modules").symlink_to(installed / "node_modules")
    return ["node", str(folder / "nats_js.mjs")]


def libnats(folder):
    if not Path("/usr/include/nats/nats.h").exists():
        pytest.skip("libnats-dev is not installed")
    program = folder / "libnats"
    compiler = ["cc", "-Wall", "-Werror", "-o", str(program), str(SOURCES / "libnats.c"), "-lnats"]
    subprocess.run(compiler, check=True, timeout=DEADLINE)
    return [str(program)]


def async_nats(_folder):
    """Built by scripts/test."""
    program = TARGET / "debug/async-nats-peer"
    if not program.exists():
        pytest.skip("tests/peers is not built")
    return [str(program)]
