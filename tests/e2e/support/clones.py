"""Hosts of a fleet with a clone of one repository each, at the same path: in mount namespaces of their own, as on machines of their own."""

import hashlib
import os
import shutil
import subprocess

from .model_script import ToolCall
from .waiting import eventually

CAN_MOUNT = os.geteuid() == 0 and subprocess.run(["unshare", "-m", "true"], stderr=subprocess.DEVNULL).returncode == 0
FILES = {"kept": "kept\n", "edited": "old\n", "gone": "gone\n", ".gitignore": "ignored\n"}
# Begins a host: its clone, the path that it has there, the daemon and its arguments.
BEGIN = 'mount --bind "$1" "$2" && shift 2 && exec "$@"'


def git(folder, *arguments):
    names = {f"GIT_{role}_{what}": "test@localhost" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    done = subprocess.run(["git", "-C", folder, *arguments], env=os.environ | names, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"git {arguments}: {done.stderr}"
    return done.stdout.strip()


def bash(command, call="c"):
    return ToolCall("bash", {"command": command}, id=call)


def rank(session, host):
    """The host with the largest one goes on with a session first."""
    return hashlib.sha256(f"{session}\n{host}".encode()).digest()


class Clones:
    def __init__(self, fleet, directory):
        self.fleet, self.directory = fleet, directory
        self.remote, self.path = directory / "remote.git", directory / "project"
        self.path.mkdir()
        git(directory, "init", "-q", "--bare", "-b", "main", self.remote)
        seed = self.clone("seed")
        for name, text in FILES.items():
            (seed / name).write_text(text)
        git(seed, "checkout", "-q", "-b", "main")
        git(seed, "add", "-A")
        git(seed, "commit", "-q", "-m", "The beginning")
        git(seed, "push", "-q", "origin", "main")

    def clone(self, name):
        git(self.directory, "clone", "-q", self.remote, name)
        return self.directory / name

    def start(self, count=2, **config):
        for _ in range(count):
            self.host(**config)
        return self.fleet.hosts

    def host(self, clones=True, **config):
        """Starts one; one that does not clone has an empty folder there."""
        # Where it writes to beside its clone is the remote, which is elsewhere with real ones.
        host = self.fleet.host(writable=[str(self.remote)], **config)
        name = f"clone{len(self.fleet.hosts)}"
        host.clone = self.clone(name) if clones else self.directory / name
        host.clone.mkdir(exist_ok=True)
        begin = self.directory / f"begin{len(self.fleet.hosts)}"
        begin.write_text(f"#!/bin/sh\nexec unshare -m sh -c '{BEGIN}' sh '{host.clone}' '{self.path}' '{host.binary}' \"$@\"\n")
        begin.chmod(0o755)
        host.binary = str(begin)
        host.start()
        eventually(lambda: self.fleet.has_card(host), "it has a card")
        return host

    def session(self, body="go", name="s", **fields):
        return self.fleet.hosts[0].session(name, body, workspace="git", **{"cwd": str(self.path), **fields})

    def pushed(self, name="s"):
        """The commit that is at the remote, or nothing."""
        return git(self.remote, "for-each-ref", "--format=%(objectname)", f"refs/agents/{name}")

    def pushed_files(self, name="s"):
        names = git(self.remote, "ls-tree", "-r", "--name-only", f"refs/agents/{name}").split()
        return {path: git(self.remote, "show", f"refs/agents/{name}:{path}") for path in names}

    def hide_remote(self):
        shutil.move(self.remote, self.directory / "hidden")

    def show_remote(self):
        shutil.move(self.directory / "hidden", self.remote)


def folder(clone):
    """What is in a folder, without its repository."""
    files = (path for path in clone.rglob("*") if path.is_file() and ".git" not in path.relative_to(clone).parts)
    return {str(path.relative_to(clone)): path.read_text().strip() for path in files}
