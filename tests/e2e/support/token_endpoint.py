"""An OAuth token endpoint that says what the test wrote down for it."""

import json
import threading
from dataclasses import dataclass
from urllib.parse import parse_qs

from .http_server import Handler, HttpServer
from .waiting import DEADLINE


@dataclass
class TokenRequest:
    content_type: str
    fields: dict


class TokenEndpoint:
    def __init__(self):
        self.requests = []
        self.status = 200
        self.answer = {}
        # Answers are held back until this is set.
        self.opened = threading.Event()
        self.opened.set()
        self._changed = threading.Condition()
        self._server = HttpServer("tokens", _Handler, self)
        self.url = f"http://127.0.0.1:{self._server.port}/oauth/token"
        self._server.start()

    def wait_for(self, count, timeout=DEADLINE):
        """Waits until so many requests have arrived in all."""
        with self._changed:
            arrived = self._changed.wait_for(lambda: len(self.requests) >= count, timeout)
        assert arrived, f"{len(self.requests)} of {count} requests to the token endpoint within {timeout} s"

    def take(self, request):
        with self._changed:
            self.requests.append(request)
            self._changed.notify_all()

    def close(self):
        self.opened.set()
        self._server.stop()


class _Handler(Handler):
    def do_POST(self):
        raw = self.body().decode()
        content_type = self.headers["Content-Type"]
        fields = json.loads(raw) if content_type == "application/json" else {k: v[0] for k, v in parse_qs(raw).items()}
        endpoint = self.server.owner
        endpoint.take(TokenRequest(content_type, fields))
        endpoint.opened.wait(DEADLINE)
        body = json.dumps(endpoint.answer).encode()
        self.send_response(endpoint.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
