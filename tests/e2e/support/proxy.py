"""An HTTP proxy that takes CONNECT, and takes every caller to the same place."""

import contextlib
import socket
import threading


class Proxy:
    def __init__(self, port):
        self._port = port
        self.asked = []
        """The hosts and ports that were asked for, with the credentials that came along."""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, name="proxy", daemon=True).start()

    def close(self):
        self._listener.close()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), name="proxied", daemon=True).start()

    def _serve(self, client):
        head = b""
        while b"\r\n\r\n" not in head:
            head += client.recv(4096)
        first, *headers = head.decode().split("\r\n")
        method, host, _ = first.split(" ")
        assert method == "CONNECT"
        found = [line.split(": ", 1)[1] for line in headers if line.lower().startswith("proxy-authorization:")]
        self.asked.append((host, *found))
        server = socket.create_connection(("127.0.0.1", self._port))
        client.sendall(b"HTTP/1.1 200 Connected\r\n\r\n")
        threading.Thread(target=self._copy, args=(server, client), name="answers", daemon=True).start()
        self._copy(client, server)

    @staticmethod
    def _copy(source, target):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)
