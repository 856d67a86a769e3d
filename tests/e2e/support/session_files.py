"""What stands in session files, and what kills the daemon in the middle of them."""

import json
import signal


def kill(daemon):
    """As a power cut does for the process."""
    daemon.signal(signal.SIGKILL)
    daemon.wait_exit()


def entries(path):
    """The lines of a session file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def only_entries(daemon):
    """The lines of the daemon's only session file."""
    (path,) = daemon.session_files()
    return entries(path)


def messages(daemon):
    return [entry["message"] for entry in only_entries(daemon) if entry["type"] == "message"]


def roles(daemon):
    return [message["role"] for message in messages(daemon)]
