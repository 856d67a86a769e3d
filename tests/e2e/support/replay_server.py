"""A model server that plays recorded answers byte by byte, for many providers at once.

A player is mounted under a token, which is part of its base URL, or under a host name, for which the server is then an
HTTP proxy. It is any object with `answer(request)`, which returns an `Answer`; `CasePlayer` plays a case of
provider_cases and holds every request against the rules of the API.
"""

import json
import random
import re
import threading
import time
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from . import provider_rules
from .http_server import Handler, HttpServer

STREAM = {"content-type": "text/event-stream"}
JSON = {"content-type": "application/json"}


@dataclass
class Request:
    """What the daemon sent, and what was said to it."""

    path: str
    headers: dict
    """Names in lower case."""
    body: dict
    refused: str = None
    """The rule that it broke."""
    status: int = None
    answer: str = ""
    """What it was answered with, for people."""


@dataclass
class Answer:
    """One answer; README.md of provider_cases says what the fields mean."""

    body: bytes
    status: int = 200
    headers: dict = field(default_factory=lambda: dict(STREAM))
    framing: str = "chunked"
    hold_seconds: float = 0
    writes: list = field(default_factory=list)
    write_size: int = None
    pause: float = 0
    """Seconds after each write."""
    name: str = ""

    def pieces(self):
        """The body as it is written."""
        start = 0
        sizes = iter(self.writes)
        while start < len(self.body):
            size = next(sizes, None) or self.write_size or len(self.body) - start
            yield self.body[start : start + size]
            start += size


def json_answer(status, document, **headers):
    return Answer(json.dumps(document).encode(), status, {**JSON, **headers}, "length")


class CasePlayer:
    """Plays the answers of one case."""

    def __init__(self, folder, case, odd=None):
        """`odd` is a seed: the answers are then written in pieces of odd sizes."""
        self.folder, self.case = folder, case
        self.api, self.rules = case["api"], case.get("rules", ())
        self.requests = []
        self._odd = random.Random(odd) if odd is not None else None
        self._lock = threading.Lock()

    def answer(self, request):
        with self._lock:
            self.requests.append(request)
            number = len(self.requests)
        request.refused = provider_rules.violation(self.api, request.body, request.headers, self.rules)
        if request.refused:
            return json_answer(400, provider_rules.refusal(self.api, request.refused))
        entry = self._entry(request.body, number)
        made = Answer(
            self._body(entry["file"], request.body, number),
            entry.get("status", 200),
            {**STREAM, **entry.get("headers", {})},
            entry.get("framing", "chunked"),
            entry.get("holdSeconds", 0),
            list(entry.get("writes", [])),
            entry.get("writeSize"),
            entry.get("pauseMs", 0) / 1000,
            entry["file"],
        )
        if self._odd:
            # Small pieces where the events are, larger ones in the bulk of a long body.
            made.writes = [self._odd.randint(1, 7) for _ in range(800)]
            made.write_size = self._odd.randint(301, 997)
        return made

    def _entry(self, body, number):
        conditions = {
            "no-tools": lambda: not provider_rules.offers_tools(self.api, body),
            "after-result": lambda: provider_rules.ends_with_results(self.api, body),
        }
        answers = self.case["answers"]
        for entry in answers:
            if "when" in entry and conditions[entry["when"]]():
                return entry
        plain = [entry for entry in answers if "when" not in entry]
        return plain[min(number, len(plain)) - 1]

    def _body(self, name, request, number):
        body = (self.folder / name).read_bytes().replace(b"@@NUMBER@@", str(number).encode())
        made = []

        def sign(_match):
            before = made[-1] if made else None
            made.append(provider_rules.signature(request, f"{number}.{len(made)}", before))
            return made[-1].encode()

        return re.sub(b"@@SIGNATURE@@", sign, body)

    def report(self):
        """What the server got and sent, for a failure's message."""
        lines = []
        for number, request in enumerate(self.requests, 1):
            shown = json.dumps(_shown(request.body), ensure_ascii=False)
            lines.append(f"--- request {number}: {request.path}\n{_cut(shown, 6000)}")
            refused = f"refused: {request.refused}" if request.refused else _cut(request.answer, 3000)
            lines.append(f"--- answer {number}: {request.status} {refused}")
        return "\n".join(lines)


def _shown(body):
    """A request without what is the same in each of them."""
    if not isinstance(body, dict):
        return body
    dull = {"tools": len(body.get("tools") or []), "system": "...", "systemInstruction": "...", "instructions": "..."}
    shown = {name: dull.get(name, value) for name, value in body.items()}
    for name in ("messages", "input"):
        if isinstance(shown.get(name), list):
            shown[name] = [message for message in shown[name] if message.get("role") not in ("system", "developer")]
    return shown


def _cut(text, limit):
    return text if len(text) <= limit else f"{text[: limit // 2]} [...{len(text)}...] {text[-limit // 2 :]}"


class ReplayServer:
    def __init__(self):
        self._players = {}
        self.closing = threading.Event()
        self._server = HttpServer("replay", _Handler, self)
        self.url = f"http://127.0.0.1:{self._server.port}"
        self._server.start()

    def base_url(self, token):
        """Where the player of `token` is found."""
        return f"{self.url}/{token}"

    def mount(self, place, player):
        """`place` is a token, or the host whose proxy the server is."""
        self._players[place] = player
        return player

    def player(self, url):
        """Who answers a request for this URL or path."""
        parts = urlsplit(url)
        return self._players.get(parts.hostname) or self._players.get(parts.path.split("/")[1])

    def close(self):
        self.closing.set()
        self._server.stop()


class _Handler(Handler):
    def send_response(self, code, message=None):
        # Without the headers `Server` and `Date`, which no case has.
        self.send_response_only(code, message)

    # The host of the tunnel that the client asked for.
    _tunnel = None

    def do_CONNECT(self):
        """A proxy's tunnel, which ends here: what follows on the connection is meant for its host."""
        self._tunnel = self.path.rpartition(":")[0]
        self.send_response(200)
        self.end_headers()

    def do_POST(self):
        raw = self.body()
        headers = {name.lower(): value for name, value in self.headers.items()}
        player = self.server.owner.player(f"http://{self._tunnel}{self.path}" if self._tunnel else self.path)
        if player is None:
            self._write(json_answer(404, {"error": {"message": f"nobody answers {self.path}"}}))
            return
        request = Request(self.path, headers, json.loads(raw))
        answer = player.answer(request)
        request.status = answer.status
        request.answer = f"{answer.name} {answer.framing} {answer.headers}\n{answer.body.decode(errors='replace')}"
        self._write(answer)

    def _write(self, answer):
        try:
            self._play(answer)
        except OSError:
            # The client left.
            self.close_connection = True

    def _play(self, answer):
        chunked = answer.framing in ("chunked", "cut", "hold")
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if chunked:
            self.send_header("transfer-encoding", "chunked")
        elif answer.framing == "length":
            self.send_header("content-length", str(len(answer.body)))
        else:
            self.send_header("connection", "close")
        self.end_headers()
        for piece in answer.pieces():
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece) if chunked else piece)
            if answer.pause:
                time.sleep(answer.pause)
        if answer.framing == "hold":
            self.server.owner.closing.wait(answer.hold_seconds)
        if answer.framing in ("chunked", "hold"):
            self.wfile.write(b"0\r\n\r\n")
        self.close_connection = answer.framing in ("cut", "close") or self.close_connection
