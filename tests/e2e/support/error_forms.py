"""The whole answer that each wire gives for an error, and how a test takes it in."""

import json
import re
from pathlib import Path

from .agents import prompt_subject
from .bridge import Bridge
from .bus import ERROR_CODE, ERROR_TEXT, ERROR_WORD

LINE = 200
"""The longest header value, characters."""
SOURCES = Path(__file__).parents[3] / "src"


def errors_of(enum):
    """Pairs of code and status that the source gives the errors of an enum, in its functions `code` and `status`."""
    codes, statuses = _arms(enum, "code"), _arms(enum, "status")
    assert codes and codes.keys() == statuses.keys(), codes.keys() ^ statuses.keys()
    return {(codes[name].strip('"'), int(statuses[name])) for name in codes}


def _arms(enum, function):
    """What a function that is one `match` says for each variant."""
    pattern = re.compile(rf"fn {function}\(&?self\) -> [^{{]+ \{{\n        match self \{{\n(.*?)\n        \}}", re.DOTALL)
    found = {}
    for path in SOURCES.rglob("*.rs"):
        for body in pattern.findall(path.read_text()):
            for variants, value in re.findall(r"([^=>]+?) => ([^,]+),", body):
                names = re.findall(rf"{enum}::(\w+)", variants)
                found.update(dict.fromkeys(names, value))
    return found


def one_line(message):
    """A message as a header has it: one ASCII line."""
    return "".join(c if " " <= c <= "~" else "?" for c in message[:LINE])


def nats(payload, status, text, ends, word=None):
    payload = payload if isinstance(payload, str) else json.dumps(payload, separators=(",", ":"), ensure_ascii=False)
    headers = {ERROR_CODE: str(status), ERROR_TEXT: one_line(text), **({ERROR_WORD: word} if word else {})}
    return {"payload": payload, "headers": headers, "ends": ends}


def plain(code, status, message, **_):
    return nats(f"error: {message}", status, message, 1, code)


def agent(code, status, message, **_):
    # The agent protocol has no number for a host that is about to leave or has no room left.
    return nats({"error": code, "message": message}, 500 if status in (503, 507) else status, message, 1)


def verb(code, status, message, **_):
    return nats({"error": code, "message": message}, status, message, 0)


def response(code, status, message, command="prompt"):
    details = {"error": code, "message": message}
    return {"type": "response", "command": command, "success": False, "error": message, "code": code, "details": details}


def end(code, status, message, **_):
    return {"type": "end", "success": False, "error": message, "code": code, "status": status}


def denied(code, status, message, **_):
    """Of a call of a tool, in the event of its end."""
    return {"error": code, "status": status, "by": "nobody" if code == "denied" else "time", "rule": "bash touch*", "reason": message}


def heard(stream, fence):
    """The error that a request over NATS ends with. What comes before it is the test's business; after `fence`, all that
    comes behind it is there."""
    while ERROR_CODE not in ((message := stream.message()).headers or {}):
        assert message.data, "the stream ended without an error"
    if stream.has_end:
        stream.terminator()
    fence()
    found = {"payload": message.data.decode(), "headers": dict(message.headers), "ends": stream.has_end + stream.pending()}
    for _ in range(stream.pending()):
        stream.terminator()
    return found


class Caller:
    """Asks one daemon for the same thing on every wire."""

    def __init__(self, daemon, session="s"):
        self.daemon, self.session = daemon, session
        self.bus = daemon.bus
        self.clients = []

    def fence(self):
        """The answer of a later request arrives after what was sent before it."""
        if self.daemon.running():
            self.daemon.list()
        self.bus.flush()

    def hear(self, stream):
        return heard(stream, self.fence)

    def close(self):
        for client in self.clients:
            client.close()

    # Requests whose answers come later.

    def request(self, subject, payload, headers, has_end):
        stream = self.bus.request(subject, payload, headers)
        stream.has_end = has_end
        return stream

    def plain(self, payload="go", headers=None):
        return self.request(self.daemon.subject(self.session), payload, headers, True)

    def agent(self, payload="go", headers=None):
        return self.request(prompt_subject(self.daemon, self.session), payload, headers, True)

    def verb(self, name, payload=b"", headers=None):
        return self.request(f"{self.daemon.subject(self.session)}.{name}", payload, headers, False)

    def burst(self, name, count):
        """Many requests to a verb, which are sent before any answer is taken."""
        streams = [self.bus.listen(self.bus.connection.new_inbox()) for _ in range(count)]

        async def publish():
            for stream in streams:
                await self.bus.connection.publish(f"{self.daemon.subject(self.session)}.{name}", reply=stream.inbox)

        self.bus.call(publish())
        return streams

    def intake(self, payload, headers=None):
        """An empty message ends all answers but those of the modes that have one message."""
        mode = payload.get("sessionMode") if isinstance(payload, dict) else None
        return self.request(self.daemon.intake, payload, headers, mode not in ("stop", "list"))

    def run(self, headers=None, **fields):
        return self.intake({"sessionMode": "run", "body": "go", "cwd": str(self.daemon.cwd), **fields}, headers)

    def controller(self, name, payload, headers=None):
        return self.request(f"agents.{name}.pi-exec.{self.daemon.owner}.control", payload, headers, False)

    def client(self, path=None):
        """A client of a socket, the session's unless told otherwise."""
        self.clients.append(Bridge(path or self.daemon.session_socket(self.session)))
        return self.clients[-1]

    def asked(self, kind, path=None, **fields):
        """A client that was answered; the answer without its id."""
        with self.client(path) as client:
            return bare(client.exchange(kind, id=1, **fields))

    def streaming(self, path=None, kind="prompt", **fields):
        """A client whose prompt was taken."""
        client = self.client(path)
        if kind == "run":
            fields = {"body": "go", "cwd": str(self.daemon.cwd), **fields}
        else:
            fields = {"message": "go", **fields}
        assert client.exchange(kind, id=1, stream=True, **fields)["success"]
        return client


def bare(record):
    """A record of the socket without its id."""
    record = dict(record)
    assert record.pop("id") == 1
    return record


def ended(client):
    """The end of a stream over the socket."""
    return bare(client.stream(1)[1])


# Requests to the daemon itself. Their errors are documents with fields of their own.


def summary(document):
    """The line that goes with a document."""
    return f"{document['error']}: {document['message']}" if "message" in document else document["error"]


def intake(document, status, ends):
    return nats(document, status, summary(document), ends)


def controller(document, status):
    return nats(document, 500 if status == 503 else status, summary(document), 0)


def client(document, command):
    return {
        "type": "response", "command": command, "success": False, "error": summary(document), "code": document["error"],
        "details": document,
    }
