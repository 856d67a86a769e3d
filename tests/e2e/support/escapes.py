"""A daemon whose tools try to get out of the sandbox: of the tests' own user and, where that is root, of an ordinary one as well."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from .daemon import BINARY, Daemon
from .model_script import ToolCall
from .proc import landlock_abi

ORDINARY = 65534
FAULTY = Path(os.environ.get("NATS_PI_BRIDGE_FAULTY") or f"{BINARY}-fault")
FAULTY = FAULTY if FAULTY.exists() else None


def is_for_all(program):
    """Whether an ordinary user can start it: that of the tests may be in root's own folder."""
    return all(folder.stat().st_mode & 0o001 for folder in (Path(program), *Path(program).parents))


PYTHONS = [os.path.realpath(sys.executable), os.path.realpath("/usr/bin/python3")]
FOR_ALL = [found for found in PYTHONS if os.path.exists(found) and is_for_all(found)]
PYTHON = (FOR_ALL or PYTHONS)[0]
ABI = landlock_abi()
LEVEL = "full" if ABI >= 6 else "files" if ABI >= 1 else "net"
full = pytest.mark.skipif(ABI < 6, reason=f"Landlock's ABI is {ABI}, signals and abstract sockets need 6")
files = pytest.mark.skipif(ABI < 1, reason="the kernel has no Landlock")
x86 = pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers of the calls are those of x86-64")


class AsUser(Daemon):
    """A daemon of an ordinary user, whom no folder of root's lets in."""

    def spawn(self, *arguments):
        for root, folders, names in os.walk(self.home.parent):
            for name in [root, *(os.path.join(root, name) for name in folders + names)]:
                os.chown(name, ORDINARY, ORDINARY, follow_symlinks=False)
        os.chown(self.bridge_root, ORDINARY, ORDINARY)
        popen = subprocess.Popen
        try:
            subprocess.Popen = lambda *args, **options: popen(*args, **options, user=ORDINARY, group=ORDINARY, extra_groups=[])
            return super().spawn(*arguments)
        finally:
            subprocess.Popen = popen


@pytest.fixture(name="make", params=["own", pytest.param("ordinary", marks=pytest.mark.skipif(os.geteuid() != 0, reason="the tests are no root's"))])
def make_daemon(request, new_daemon, model, bus, nats_server, record_property):
    made = []

    def start(profile="workspace", environment=(), level=LEVEL, **config):
        # What the environment asks for is in the fault build only.
        binary = FAULTY if environment else BINARY
        if request.param == "own":
            daemon = new_daemon(binary=str(binary))
        else:
            if not FOR_ALL:
                pytest.skip("there is no Python that an ordinary user can start")
            folder = Path(tempfile.mkdtemp(prefix="escape-"))
            folder.chmod(0o755)
            shutil.copy(binary, folder / "daemon")
            daemon = AsUser(folder / "d", nats_server.url, bus, model.url, binary=str(folder / "daemon"))
            made.append((daemon, folder))
        daemon.config |= {"sandbox": profile, **config}
        daemon.environment |= dict(environment)
        daemon.model = model
        (daemon.home / ".ssh").mkdir()
        (daemon.home / ".ssh/id").write_text("s3cret")
        (daemon.home / "out").mkdir()
        (daemon.home / "out/there").write_text("as it was")
        daemon.start()
        model.script("hello")
        daemon.session("s", "x").text()
        found = daemon.inspect("s")["sandbox"]["level"]
        record_property("level", found)
        print(f"level {found}, user {request.param}")
        assert found == (level if profile != "off" else "none")
        return daemon

    yield start
    for daemon, folder in made:
        daemon.close()
        assert "panicked" not in daemon.log_text()
        shutil.rmtree(folder)


def bash(daemon, command, timeout=30):
    daemon.model.script([ToolCall("bash", {"command": command, "timeout": timeout})], "done")
    assert daemon.prompt("s", "go").text(timeout + 15) == "done"
    return daemon.model.requests[-1].tool_results[-1][0]


def python(daemon, code):
    (daemon.cwd / "probe.py").write_text(code)
    return bash(daemon, f"{PYTHON} probe.py 2>&1")
