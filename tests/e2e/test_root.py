"""What the daemon says, and refuses, when it is root."""

import os
import subprocess

import pytest

from support.daemon import BINARY
from support.waiting import DEADLINE

WARNING = "is root, and so are the programs"
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="the tests do not run as root")


@as_root
def test_root_is_told_once_what_that_means(new_daemon):
    daemon = new_daemon()
    daemon.config["sandbox"] = "off"
    daemon.start()
    assert daemon.log_text().count(WARNING) == 1
    checked = daemon.run_to_end("--check")
    assert checked.returncode == 0 and checked.stderr.count(WARNING) == 1


@as_root
def test_in_a_sandbox_root_means_less(new_daemon):
    checked = new_daemon().run_to_end("--check")
    assert checked.returncode == 0 and WARNING not in checked.stderr
    assert checked.stderr.count("this daemon is root; the programs that its sessions run have no privileges") == 1


@as_root
@pytest.mark.parametrize("arguments", [[], ["--check"]], ids=["start", "check"])
def test_root_can_be_refused(new_daemon, arguments):
    daemon = new_daemon()
    daemon.config["refuseRoot"] = True
    refused = daemon.run_to_end(*arguments)
    assert refused.returncode == 78 and "refuseRoot" in refused.stderr
    del daemon.config["refuseRoot"]
    assert daemon.run_to_end("--refuse-root").returncode == 78


@as_root
def test_others_are_neither_told_nor_refused(tmp_path):
    try:
        done = subprocess.run(
            [BINARY, "--refuse-root", "--check"], env={"HOME": "/nonexistent", "USER": "tester"}, cwd="/", user=65534,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=DEADLINE,
        )
    except PermissionError:
        pytest.skip("the binary is where only root finds it")
    assert done.returncode == 0 and WARNING not in done.stderr, done.stderr
