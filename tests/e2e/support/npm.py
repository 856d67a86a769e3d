"""Packages of the npm registry, installed into the target folder."""

import fcntl
import functools
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from .waiting import DEADLINE

INSTALL_TIMEOUT = 240
REGISTRY_TIMEOUT = 30


def required():
    """Skips the test where node or npm is missing."""
    for program in ("node", "npm"):
        if not shutil.which(program):
            pytest.skip(f"{program} is not installed")


def installed(name, packages):
    """The folder in which the packages are installed, at first by this. Skips the test where that cannot be done."""
    target = Path(os.environ.get("CARGO_TARGET_DIR") or Path(__file__).parents[3] / "target")
    folder = target / "npm" / name
    folder.mkdir(parents=True, exist_ok=True)
    # Several workers want it at the same time; the stamp says that an installation was completed.
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        stamp = folder / "installed"
        if not stamp.exists():
            install(folder, packages)
            stamp.touch()
    return folder


def node_version():
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, timeout=DEADLINE).stdout
    numbers = re.match(r"v(\d+)\.(\d+)", version)
    return tuple(map(int, numbers.groups())) if numbers else (0, 0)


@functools.cache
def newest(package):
    try:
        asked = subprocess.run(
            ["npm", "view", package, "version"], stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=REGISTRY_TIMEOUT,
        )
    except subprocess.TimeoutExpired:
        pytest.skip("npm's registry does not answer")
    if asked.returncode != 0:
        pytest.skip(f"npm does not know {package}: {asked.stderr[-500:]}")
    return asked.stdout.strip()


def install(folder, packages):
    (folder / "package.json").write_text('{"private": true}')
    command = ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", *packages]
    try:
        done = subprocess.run(
            command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=INSTALL_TIMEOUT
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"npm did not install {packages} within {INSTALL_TIMEOUT} s")
    if done.returncode != 0:
        pytest.skip(f"npm cannot install {packages}: {done.stderr[-500:]}")
