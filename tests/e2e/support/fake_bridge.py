"""A session's or daemon's side channel that says what the test tells it to, with its files in the registry."""

import json
import os
import socket
import threading

from .waiting import DEADLINE

PROTOCOL = "pi-session-bridge.v1"


class Connection:
    """One client of a fake bridge."""

    def __init__(self, endpoint):
        self.endpoint = endpoint
        self.lock = threading.Lock()

    def send(self, *records):
        """Sends records, or bytes as they are. False when the client is gone."""
        data = b"".join(r if isinstance(r, bytes) else json.dumps(r).encode() + b"\n" for r in records)
        try:
            with self.lock:
                self.endpoint.sendall(data)
        except OSError:
            return False
        return True

    def close(self):
        try:
            self.endpoint.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


class FakeBridge:
    """One socket and, unless told otherwise, one file in the registry."""

    def __init__(self, directory, name, registered=True, **row):
        """`name` is that of the files; `row` is put over the usual fields of the registry, None removes one."""
        (directory / "instances").mkdir(parents=True, exist_ok=True)
        self.path = directory / f"{name}.sock"
        usual = {
            "protocol": PROTOCOL, "pid": os.getpid(), "hostname": "here", "cwd": "/somewhere", "sessionId": name,
            "isIdle": True, "socketPath": str(self.path), "bridgeDir": str(directory),
            "startedAt": "2026-01-01T00:00:00.000Z", "updatedAt": "2026-01-01T00:00:00.000Z",
        }
        self.row = {key: value for key, value in {**usual, **row}.items() if value is not None}
        self.row_path = directory / "instances" / f"{name}.json"
        if registered:
            self.row_path.write_text(json.dumps(self.row, indent=2) + "\n")
        self.requests = []
        """What clients sent, ids included."""
        self.lines = []
        """The same as it came over the wire."""
        self.clients = []
        self.handlers = {}
        self.hello = {"type": "bridge_hello", "protocol": PROTOCOL, "state": self.row}
        self._changed = threading.Condition()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(self.path))
        self._listener.listen(8)
        threading.Thread(target=self._accept, daemon=True, name="fake-bridge").start()

    def on(self, kind, handler):
        """Answers requests of a type. The handler takes the request and returns `data`, or a list of records (or bytes)
        that are sent as they are."""
        self.handlers[kind] = handler

    def _accept(self):
        while True:
            try:
                endpoint, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(endpoint,), daemon=True, name="fake-client").start()

    def _serve(self, endpoint):
        client = Connection(endpoint)
        client.send(self.hello)
        with self._changed:
            self.clients.append(client)
            self._changed.notify_all()
        try:
            for line in endpoint.makefile("rb"):
                request = json.loads(line)
                handler = self.handlers.get(request["type"], lambda request: {})
                answer = handler(request)
                # After the handler, so that what a test does once it knows of a request comes after what the handler does.
                with self._changed:
                    self.lines.append(line)
                    self.requests.append(request)
                    self._changed.notify_all()
                client.send(*(answer if isinstance(answer, list) else [response(request, answer)]))
        except OSError:
            pass
        finally:
            with self._changed:
                self.clients.remove(client)
                self._changed.notify_all()
            endpoint.close()

    def wait_request(self, kind, number=1, timeout=DEADLINE):
        """Waits for the `number`-th request of a type; returns it."""

        def find():
            found = [request for request in self.requests if request["type"] == kind]
            return found[number - 1] if len(found) >= number else None

        with self._changed:
            assert self._changed.wait_for(find, timeout), f"no {kind}: {self.requests}"
            return find()

    def wait_clients(self, count):
        """Waits until so many clients are connected."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.clients) == count, DEADLINE)

    def push(self, *records):
        """Sends records to every client."""
        for client in list(self.clients):
            client.send(*records)

    def event(self, name, **data):
        self.push(event(name, **data))

    def drop_clients(self):
        for client in list(self.clients):
            client.close()

    def close(self):
        """As a session that ends: no more listening, no files, no connections."""
        self.row_path.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)
        # Wakes the thread that accepts.
        try:
            self._listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._listener.close()
        self.drop_clients()


def response(request, data=None, error=None, command=None):
    """The response to a request: in success, unless there is an error."""
    record = {"type": "response", "command": command or request["type"], "success": error is None}
    if "id" in request:
        record["id"] = request["id"]
    if error is None:
        record["data"] = {} if data is None else data
    else:
        record["error"] = error
    return record


def event(name, **data):
    return {"type": "event", "event": name, "timestamp": "2026-01-01T00:00:00.000Z", "data": data}


def dead_pid():
    """The id of a process that has ended."""
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return pid
