"""What /proc tells about a process, and the kernel about itself."""

import ctypes
import os
from pathlib import Path


def status(pid):
    """The fields of /proc/PID/status, or None when the process is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def alive(pid):
    """Whether it runs; a zombie does not."""
    found = status(pid)
    return found is not None and not found["State"].startswith("Z")


def stopped(pid):
    """Whether all its threads are stopped, which takes a moment after the signal."""
    states = [status(f"{pid}/task/{task}") for task in os.listdir(f"/proc/{pid}/task")]
    return all(found is None or found["State"].startswith("T") for found in states)


def rss(pid):
    """Resident memory in bytes."""
    return int(status(pid)["VmRSS"].split()[0]) * 1024


def cpu_seconds(pid):
    """Processor time that it has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def threads(pid):
    """The names of its threads."""
    names = []
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            try:
                names.append((task / "comm").read_text().strip())
            except (FileNotFoundError, ProcessLookupError):
                pass  # It ended while we looked.
    except (FileNotFoundError, ProcessLookupError):
        pass
    return names


def open_files(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def with_runners(pid):
    """The daemon and the processes that its sessions' tools run in, two for each session."""
    return [pid, *(process for process in descendants(pid) if is_runner(process))]


def is_runner(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().endswith(b"\0__runner\0")
    except (FileNotFoundError, ProcessLookupError):
        return False


def children(pid):
    """Direct children, zombies included."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            fields = status(int(entry.name))
            if fields and fields.get("PPid") == str(pid):
                found.append(int(entry.name))
    return found


def descendants(pid):
    """What it has started, and what that has started."""
    found = children(pid)
    return found + [process for child in found for process in descendants(child)]


def name(pid):
    """The name of its program; empty when it is gone."""
    return (status(pid) or {}).get("Name", "")


def landlock_abi():
    """The version of Landlock that the kernel has; 0 without any."""
    return max(0, ctypes.CDLL(None, use_errno=True).syscall(444, None, 0, 1))
