"""What the HTTP servers of the tests have in common."""

import socketserver
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class HttpServer:
    """A server on a free port of 127.0.0.1, on a thread of its own until `stop`."""

    def __init__(self, name, handler, owner):
        """Each request is handled by a `handler`, which finds the `owner` as `self.server.owner`."""
        self.http = _Server(("127.0.0.1", 0), handler)
        self.http.owner = owner
        self.port = self.http.server_address[1]
        self._name = name

    def start(self):
        self._thread = threading.Thread(target=self.http.serve_forever, args=(0.02,), name=self._name, daemon=True)
        self._thread.start()

    def stop(self):
        self.http.shutdown()
        self.http.server_close()
        self._thread.join(5)


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


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Each write leaves as a packet of its own, at once.
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    def body(self):
        """The request's body, bytes, whether its length was told or not."""
        if "Content-Length" in self.headers:
            return self.rfile.read(int(self.headers["Content-Length"]))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body
