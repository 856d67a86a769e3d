"""An OAuth token endpoint that says what the test wrote down for it."""

import json
import socketserver
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

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
        self._http = _Server(("127.0.0.1", 0), _Handler)
        self._http.endpoint = self
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}/oauth/token"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), name="tokens", daemon=True)
        self._thread.start()

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
        self._http.shutdown()
        self._http.server_close()
        self._thread.join(5)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def server_bind(self):
        # HTTPServer's own looks the host name up, which can take seconds where there is no resolver.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address

    def handle_error(self, request, client_address):
        """A client that leaves is what some tests are about."""


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_POST(self):
        raw = self.rfile.read(int(self.headers["Content-Length"])).decode()
        content_type = self.headers["Content-Type"]
        fields = json.loads(raw) if content_type == "application/json" else {k: v[0] for k, v in parse_qs(raw).items()}
        endpoint = self.server.endpoint
        endpoint.take(TokenRequest(content_type, fields))
        endpoint.opened.wait(DEADLINE)
        body = json.dumps(endpoint.answer).encode()
        self.send_response(endpoint.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
