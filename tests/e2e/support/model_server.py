"""A model provider that says what the test wrote down for it.

A test gives a list of turns, each of which answers one request, or a function that makes a turn out of a request. Turns
are made of the steps of model_script; provider_apis says how they look on the wire.
"""

import json
import select
import socket
import ssl
import struct
import threading
from dataclasses import dataclass, field

from .http_server import Handler, HttpServer
from .model_script import Cut, Failure, Gate, Raw, Stall, Stop, Text, Thinking, ToolCall, Unterminated, Usage
from .provider_apis import APIS
from .waiting import DEADLINE


@dataclass
class Request:
    """What the daemon sent."""

    path: str
    headers: dict
    """Names in lower case."""
    body: dict
    left: threading.Event = field(default_factory=threading.Event)
    """Set when the client closed the connection before the answer was complete."""
    finished: threading.Event = field(default_factory=threading.Event)
    """Set when the whole answer has been written."""

    @property
    def api(self):
        (found,) = [api for api in APIS if api.matches(self.path.split("?")[0])]
        return found

    @property
    def model(self):
        """The model asked for, which is in the body or in the path."""
        return self.body.get("model") or self.path.split("/models/")[1].split(":")[0]

    @property
    def key(self):
        """The API key it came with."""
        bearer = self.headers.get("authorization", "")
        return self.headers.get("x-api-key") or self.headers.get("x-goog-api-key") or bearer.removeprefix("Bearer ")

    @property
    def system(self):
        return self.api.system(self.body)

    @property
    def conversation(self):
        """Pairs of role and text, without system prompt, tool calls and tool results."""
        pairs = self.api.conversation(self.body)
        return [(role, text) for role, text in pairs if role in ("user", "assistant") and text]

    @property
    def prompts(self):
        return [text for role, text in self.conversation if role == "user"]

    @property
    def tool_results(self):
        """Text and error flag (None where the API has none) of each tool result, in order."""
        return self.api.tool_results(self.body)

    @property
    def tool_names(self):
        return self.api.tool_names(self.body)


class ModelServer:
    def __init__(self, certificate=None):
        """`certificate`: paths of a certificate and its key, for a server that speaks TLS."""
        self.requests = []
        # Bytes of one network write; None = one event.
        self.write_size = None
        self._turns = []
        self._answer = None
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._server = HttpServer("model", _Handler, self)
        self.port = self._server.port
        self.url = f"{'https' if certificate else 'http'}://127.0.0.1:{self.port}"
        if certificate:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(*certificate)
            # The handshake is made at the first read, on the connection's own thread.
            http = self._server.http
            http.socket = context.wrap_socket(http.socket, server_side=True, do_handshake_on_connect=False)
        self._server.start()

    def script(self, *turns):
        """Adds turns, each of which answers one request: a list of steps, one step, or a text."""
        with self._changed:
            self._turns.extend(turns)

    def answer(self, function):
        """Answers every request that no turn is left for with `function(request)`."""
        self._answer = function

    def wait_for(self, count, timeout=DEADLINE):
        """Waits until so many requests have arrived in all; returns the last of them."""
        with self._changed:
            arrived = self._changed.wait_for(lambda: len(self.requests) >= count, timeout)
        assert arrived, f"{len(self.requests)} of {count} requests to the model within {timeout} s"
        return self.requests[count - 1]

    def close(self):
        self._closing.set()
        self._server.stop()

    def take(self, request):
        with self._changed:
            self.requests.append(request)
            turn = self._turns.pop(0) if self._turns else None
            self._changed.notify_all()
        if turn is None and self._answer:
            turn = self._answer(request)
        if turn is None:
            # An error no retry rule matches, so that a forgotten turn shows at once.
            turn = Failure(400, "the test has no turn for this request")
        steps = turn if isinstance(turn, list) else [turn]
        return [Text(step) if type(step) is str else step for step in steps]

    @property
    def closing(self):
        return self._closing.is_set()


class _Handler(Handler):
    def do_POST(self):
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.path, headers, json.loads(self.body()))
        model = self.server.owner
        steps = model.take(request)
        if isinstance(steps[0], Failure):
            return self._fail(steps[0])
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            self._play(request, steps)
            request.finished.set()
        except _Over:
            self.close_connection = True
        except OSError:
            request.left.set()
            self.close_connection = True

    def _fail(self, failure):
        body = failure.body if isinstance(failure.body, str) else json.dumps(failure.body)
        self.send_response(failure.status)
        for name, value in {"Content-Type": "application/json", **failure.headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body.encode())))
        self.end_headers()
        self.wfile.write(body.encode())

    def _send(self, text):
        data = text.encode()
        size = self.server.owner.write_size or len(data)
        for start in range(0, len(data), size or 1):
            piece = data[start : start + size]
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))

    def _wait(self, request, over):
        """Waits until `over` says so; notices when the client leaves."""
        while not over():
            if self.server.owner.closing:
                raise _Over
            if select.select([self.connection], [], [], 0.01)[0] and not self.connection.recv(1, socket.MSG_PEEK):
                request.left.set()
                raise _Over

    def _play(self, request, steps):
        usage = next((step for step in steps if isinstance(step, Usage)), Usage(10, 5))
        reason = next((step.reason for step in steps if isinstance(step, Stop)), None)
        writer = request.api(request.model, usage)
        self._send(writer.start())
        for step in steps:
            if isinstance(step, Gate):
                step.reached.set()
                self._wait(request, step.opened.is_set)
            elif isinstance(step, Stall):
                self._wait(request, lambda: False)
            elif isinstance(step, Cut):
                # No linger: the kernel sends a reset instead of an orderly end.
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
                raise _Over
            elif isinstance(step, Unterminated):
                self.wfile.write(b"0\r\n\r\n")
                return
            elif isinstance(step, Raw):
                self._send(step)
            elif isinstance(step, (Text, Thinking, ToolCall)):
                for event in writer.step(step):
                    self._send(event)
        self._send(writer.end(reason))
        self.wfile.write(b"0\r\n\r\n")


class _Over(Exception):
    """Nothing more is to be written to this connection."""
