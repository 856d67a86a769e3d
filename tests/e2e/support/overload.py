"""Callers that want more than a host does, and try again at once when they are refused."""

import json
import socket
import threading
import time

from .waiting import DEADLINE, eventually

# What a run does: three pieces of text, 15 ms apart.
RUN = {"sessionMode": "run", "model": "offline/demo", "body": "@stream 3 every 15 ms"}
CONNECT = b'CONNECT {"verbose":false,"pedantic":false,"headers":true,"no_responders":true}\r\nSUB _INBOX.overload.%d 1\r\n'


class Overload:
    """`callers` has the number of requests that each caller has at a time. Each run ends before the next one is asked for."""

    def __init__(self, daemon, address, callers, retry=0.02):
        self.daemon, self.address, self.retry = daemon, address, retry
        self.done = dict.fromkeys(callers, 0)
        # How long each refusal took, seconds, and what it said.
        self.refusals = []
        self.stop = threading.Event()
        names = [name for name, at_a_time in callers.items() for _ in range(at_a_time)]
        self.threads = [threading.Thread(target=self._ask, args=(name, n)) for n, name in enumerate(names)]

    def run(self, runs, timeout=DEADLINE):
        """Goes on until there have been so many runs, from when all callers have had one, and the host is not only the first
        one's any more."""
        for thread in self.threads:
            thread.start()
        try:
            begin = eventually(lambda: min(self.done.values()) and dict(self.done), "each has had one", timeout)
            wanted = sum(begin.values()) + runs
            end = eventually(lambda: sum(self.done.values()) >= wanted and dict(self.done), f"{runs} runs", timeout)
            return {name: end[name] - begin[name] for name in end}
        finally:
            self.stop.set()
            for thread in self.threads:
                thread.join(DEADLINE)

    def _ask(self, name, number):
        # A connection of its own and no client library, so that times are those of the host as far as possible.
        request = json.dumps({**RUN, "cwd": str(self.daemon.cwd), "from": name}).encode()
        publish = b"PUB %s _INBOX.overload.%d %d\r\n%s\r\n" % (self.daemon.intake.encode(), number, len(request), request)
        with socket.create_connection(self.address.split(":"), DEADLINE) as connection, connection.makefile("rb") as lines:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.sendall(CONNECT % number)
            while not self.stop.is_set():
                asked = time.monotonic()
                connection.sendall(publish)
                refusal = None
                while (message := self._message(connection, lines))[1]:
                    if b"Nats-Service-Error-Code" in message[0]:
                        refusal = time.monotonic() - asked, json.loads(message[1])
                if refusal:
                    self.refusals.append(refusal)
                    self.stop.wait(self.retry)
                else:
                    self.done[name] += 1

    def _message(self, connection, lines):
        """The headers and the payload of the next message."""
        while True:
            line = lines.readline().split()
            if line[0] == b"PING":
                connection.sendall(b"PONG\r\n")
            elif line[0] in (b"MSG", b"HMSG"):
                data = lines.read(int(line[-1]) + 2)[:-2]
                headers = int(line[-2]) if line[0] == b"HMSG" else 0
                return data[:headers], data[headers:]

    def refused_within(self, part):
        """So many of the refusals, from 0 to 1, took no longer than this, in milliseconds."""
        return sorted(took for took, _ in self.refusals)[int(part * (len(self.refusals) - 1))] * 1000
