"""A client of the side channel: one connection to a Unix socket, line by line."""

import itertools
import json
import queue
import socket
import threading
import time

from .waiting import DEADLINE, eventually

_ids = itertools.count(1)


class BridgeClosed(AssertionError):
    """The daemon ended the connection."""


class Failed(AssertionError):
    """The response to a request says success: false."""

    def __init__(self, response):
        self.response = response
        super().__init__(response["error"])


class Bridge:
    """One client. A thread reads, so that whatever arrives is kept in order while the test does something else."""

    def __init__(self, path, read=True):
        self.path = str(path)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(DEADLINE)
        self.socket.connect(self.path)
        self._records = queue.Queue()
        self.seen = []
        """Every record that was taken, in order."""
        self._kept = []
        self.hello = None
        if read:
            threading.Thread(target=self._read, name="bridge", daemon=True).start()
            self.hello = self.record()
            assert self.hello["type"] in ("bridge_hello", "bridge_error"), self.hello

    def _read(self):
        try:
            with self.socket.makefile("rb") as lines:
                for line in lines:
                    self._records.put(json.loads(line))
        except (OSError, ValueError) as error:
            self._records.put(error)
        self._records.put(None)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        try:
            self.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.socket.close()

    def send_bytes(self, data):
        self.socket.sendall(data)

    def send(self, record):
        self.send_bytes(json.dumps(record).encode() + b"\n")

    def record(self, timeout=DEADLINE):
        """The next record that arrives."""
        try:
            found = self._records.get(timeout=timeout)
        except queue.Empty:
            raise AssertionError(f"nothing within {timeout} s after {self.seen[-3:]}") from None
        if found is None:
            self._records.put(None)
            raise BridgeClosed(f"closed after {self.seen[-3:]}")
        if isinstance(found, Exception):
            raise found
        self.seen.append(found)
        return found

    def next(self, wanted, timeout=DEADLINE):
        """The next record for which `wanted` holds; the others are kept for later calls."""
        for at, record in enumerate(self._kept):
            if wanted(record):
                return self._kept.pop(at)
        end = time.monotonic() + timeout
        while True:
            record = self.record(max(0.001, end - time.monotonic()))
            if wanted(record):
                return record
            self._kept.append(record)

    def response(self, request_id, timeout=DEADLINE):
        return self.next(lambda r: r["type"] == "response" and r.get("id") == request_id, timeout)

    def exchange(self, kind, timeout=DEADLINE, **fields):
        """Sends a request and returns the response as it came."""
        fields.setdefault("id", f"r{next(_ids)}")
        self.send({"type": kind, **fields})
        return self.response(fields["id"], timeout)

    def ask(self, kind, timeout=DEADLINE, **fields):
        """Sends a request that must succeed; returns its data."""
        response = self.exchange(kind, timeout, **fields)
        if not response["success"]:
            raise Failed(response)
        return response["data"]

    def refusal(self, kind, **fields):
        """Sends a request that must fail; returns the error's text."""
        response = self.exchange(kind, **fields)
        assert response["success"] is False and "data" not in response, response
        return response["error"]

    def event(self, name, timeout=DEADLINE, where=lambda event: True):
        return self.next(lambda r: r["type"] == "event" and r["event"] == name and where(r), timeout)

    def stream(self, request_id, timeout=DEADLINE):
        """The text and the end record of a streamed answer."""
        end, text = time.monotonic() + timeout, []
        kept, self._kept = self._kept, []
        while True:
            # Not by `next`, which would look at every event that came in between once for each piece.
            record = kept.pop(0) if kept else self.record(max(0.001, end - time.monotonic()))
            if record["type"] not in ("chunk", "end") or record.get("id") != request_id:
                self._kept.append(record)
            elif record["type"] == "chunk":
                text.append(record["data"])
            else:
                self._kept += kept
                return "".join(text), record

    def wait_idle(self, timeout=DEADLINE, **fields):
        return eventually(lambda: self.ask("get_state", **fields)["isIdle"], "the session is idle", timeout)

    def wait_closed(self, timeout=DEADLINE):
        """Reads until the daemon ends the connection; returns what came."""
        end, found = time.monotonic() + timeout, []
        while True:
            try:
                found.append(self.record(max(0.001, end - time.monotonic())))
            except BridgeClosed:
                return found


def rows(directory):
    """The registry: file name -> row. Every file must be whole at any time."""
    found = {}
    for path in (directory / "instances").glob("*.json"):
        try:
            found[path.name] = json.loads(path.read_text())
        except FileNotFoundError:
            pass  # It was removed between the two calls.
    return found


def open_questions(daemon, session_id):
    """What waits for people in a session, oldest first; `None` as long as the daemon does not have the session."""
    if not daemon.session_socket(session_id).exists():
        return None
    with Bridge(daemon.session_socket(session_id)) as client:
        return client.ask("questions")["questions"]
