"""A model provider that says what the test wrote down for it.

Speaks the streaming forms of two APIs, anthropic-messages (`/v1/messages`) and openai-completions
(`/chat/completions`). A test gives a list of turns, each of which answers one request, or a function that makes a turn
out of a request.
"""

import json
import select
import socket
import socketserver
import struct
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from .waiting import DEADLINE


@dataclass
class Text:
    text: str


@dataclass
class Thinking:
    text: str


@dataclass
class ToolCall:
    name: str
    arguments: dict | str
    """A string is sent as it is, so that it can be broken JSON."""
    id: str = ""


@dataclass
class Usage:
    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_write: int = 0


@dataclass
class Stop:
    """Another reason to stop than the usual one, in the words of the API."""

    reason: str


class Raw(str):
    """Bytes of the event stream, as they are."""


class Cut:
    """The connection is reset here."""


class Unterminated:
    """The stream ends here, properly closed, but without its last events."""


class Stall:
    """Nothing more comes, for as long as the client waits."""


@dataclass
class Failure:
    """The whole answer is an HTTP error."""

    status: int
    body: dict | str = ""
    headers: dict = field(default_factory=dict)


class Gate:
    """Holds a stream until the test opens it."""

    def __init__(self):
        self.reached = threading.Event()
        self.opened = threading.Event()

    def wait_reached(self, timeout=DEADLINE):
        assert self.reached.wait(timeout), f"the model did not get to the gate within {timeout} s"

    def open(self):
        self.opened.set()


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
    def anthropic(self):
        return self.path.split("?")[0].endswith("/v1/messages")

    @property
    def key(self):
        """The API key it came with."""
        bearer = self.headers.get("authorization", "")
        return self.headers.get("x-api-key") or bearer.removeprefix("Bearer ")

    @property
    def system(self):
        if self.anthropic:
            system = self.body.get("system", "")
            return system if isinstance(system, str) else "\n".join(block["text"] for block in system)
        return "\n".join(
            text_of(message["content"]) for message in self.body["messages"] if message["role"] in ("system", "developer")
        )

    @property
    def conversation(self):
        """Pairs of role and text, without system prompt, tool calls and tool results."""
        pairs = [(message["role"], text_of(message.get("content"))) for message in self.body["messages"]]
        return [(role, text) for role, text in pairs if role in ("user", "assistant") and text]

    @property
    def prompts(self):
        return [text for role, text in self.conversation if role == "user"]

    @property
    def tool_results(self):
        """Text and error flag (None where the API has none) of each tool result, in order."""
        results = []
        for message in self.body["messages"]:
            if message["role"] == "tool":
                results.append((text_of(message["content"]), None))
            elif message["role"] == "user" and isinstance(message["content"], list):
                for block in message["content"]:
                    if block["type"] == "tool_result":
                        results.append((text_of(block["content"]), bool(block.get("is_error"))))
        return results

    @property
    def tool_names(self):
        return [(tool.get("function") or tool)["name"] for tool in self.body.get("tools", [])]


def text_of(content):
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(block["text"] for block in content if block.get("type") in ("text", "input_text"))


def to_json(value):
    """As providers write it: characters as they are, not escaped."""
    return json.dumps(value, ensure_ascii=False)


class ModelServer:
    def __init__(self):
        self.requests = []
        # Bytes of one network write; None = one event.
        self.write_size = None
        self._turns = []
        self._answer = None
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._http = _Server(("127.0.0.1", 0), _Handler)
        self._http.model = self
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), name="model", daemon=True)
        self._thread.start()

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
        self._http.shutdown()
        self._http.server_close()
        self._thread.join(5)

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


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 256

    def server_bind(self):
        # HTTPServer's own looks the host name up, which can take seconds where there is no resolver.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address

    def handle_error(self, request, client_address):
        """A client that leaves in mid-stream is what many tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Each event leaves as a packet of its own, at once.
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    def do_POST(self):
        raw = self.rfile.read(int(self.headers["Content-Length"])) if "Content-Length" in self.headers else self._chunked()
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.path, headers, json.loads(raw))
        model = self.server.model
        steps = model.take(request)
        if isinstance(steps[0], Failure):
            return self._fail(steps[0])
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            self._play(_Anthropic if request.anthropic else _Openai, request, steps)
            request.finished.set()
        except _Over:
            self.close_connection = True
        except OSError:
            request.left.set()
            self.close_connection = True

    def _chunked(self):
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

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
        size = self.server.model.write_size or len(data)
        for start in range(0, len(data), size or 1):
            piece = data[start : start + size]
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))

    def _wait(self, request, over):
        """Waits until `over` says so; notices when the client leaves."""
        while not over():
            if self.server.model.closing:
                raise _Over
            if select.select([self.connection], [], [], 0.01)[0] and not self.connection.recv(1, socket.MSG_PEEK):
                request.left.set()
                raise _Over

    def _play(self, api, request, steps):
        usage = next((step for step in steps if isinstance(step, Usage)), Usage(10, 5))
        reason = next((step.reason for step in steps if isinstance(step, Stop)), None)
        writer = api(request.body["model"], usage)
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


class _Anthropic:
    def __init__(self, model, usage):
        self._model, self._usage = model, usage
        self._index, self._open, self._called = -1, None, False

    @staticmethod
    def _event(name, **fields):
        return f"event: {name}\ndata: {to_json({'type': name, **fields})}\n\n"

    def start(self):
        usage = {
            "input_tokens": self._usage.input,
            "output_tokens": 1,
            "cache_read_input_tokens": self._usage.cache_read,
            "cache_creation_input_tokens": self._usage.cache_write,
        }
        message = {"id": "msg_1", "type": "message", "role": "assistant", "model": self._model, "content": []}
        return self._event("message_start", message={**message, "stop_reason": None, "usage": usage})

    def _close(self):
        if self._open is None:
            return ""
        self._open = None
        return self._event("content_block_stop", index=self._index)

    def _begin(self, kind, block):
        closed = self._close()
        self._open, self._index = kind, self._index + 1
        return closed + self._event("content_block_start", index=self._index, content_block=block)

    def _delta(self, **delta):
        return self._event("content_block_delta", index=self._index, delta=delta)

    def step(self, step):
        """One string per network write."""
        if isinstance(step, Text):
            first = "" if self._open == "text" else self._begin("text", {"type": "text", "text": ""})
            yield first + self._delta(type="text_delta", text=step.text)
        elif isinstance(step, Thinking):
            first = self._begin("thinking", {"type": "thinking", "thinking": "", "signature": ""})
            yield first + self._delta(type="thinking_delta", thinking=step.text)
            yield self._delta(type="signature_delta", signature="c2ln")
        else:
            self._called = True
            arguments = step.arguments if isinstance(step.arguments, str) else json.dumps(step.arguments)
            name = {"type": "tool_use", "id": step.id or f"toolu_{id(step):x}", "name": step.name, "input": {}}
            yield self._begin("tool", name)
            # In two pieces, as providers do.
            for piece in (arguments[: len(arguments) // 2], arguments[len(arguments) // 2 :]):
                yield self._delta(type="input_json_delta", partial_json=piece)

    def end(self, reason):
        reason = reason or ("tool_use" if self._called else "end_turn")
        delta = self._event(
            "message_delta", delta={"stop_reason": reason, "stop_sequence": None}, usage={"output_tokens": self._usage.output}
        )
        return self._close() + delta + self._event("message_stop")


class _Openai:
    def __init__(self, model, usage):
        self._model, self._usage, self._calls = model, usage, 0

    def _chunk(self, delta, reason=None, **extra):
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        chunk = {"id": "c1", "object": "chat.completion.chunk", "model": self._model, "choices": [choice], **extra}
        return f"data: {to_json(chunk)}\n\n"

    def start(self):
        return self._chunk({"role": "assistant", "content": ""})

    def step(self, step):
        if isinstance(step, Text):
            yield self._chunk({"content": step.text})
        elif isinstance(step, Thinking):
            yield self._chunk({"reasoning_content": step.text})
        else:
            index, self._calls = self._calls, self._calls + 1
            arguments = step.arguments if isinstance(step.arguments, str) else json.dumps(step.arguments)
            call = {"index": index, "id": step.id or f"call_{id(step):x}", "type": "function"}
            yield self._chunk({"tool_calls": [{**call, "function": {"name": step.name, "arguments": ""}}]})
            for piece in (arguments[: len(arguments) // 2], arguments[len(arguments) // 2 :]):
                yield self._chunk({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})

    def end(self, reason):
        finish = self._chunk({}, reason or ("tool_calls" if self._calls else "stop"))
        # Tokens from the cache are part of the prompt's tokens in this API.
        usage = {
            "prompt_tokens": self._usage.input + self._usage.cache_read + self._usage.cache_write,
            "completion_tokens": self._usage.output,
            "prompt_tokens_details": {
                "cached_tokens": self._usage.cache_read,
                "cache_write_tokens": self._usage.cache_write,
            },
        }
        last = {"id": "c1", "object": "chat.completion.chunk", "model": self._model, "choices": [], "usage": usage}
        return finish + f"data: {to_json(last)}\n\n" + "data: [DONE]\n\n"
