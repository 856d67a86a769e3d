"""Callers that want more than a host does, and try again at once when they are refused."""

import heapq
import json
import selectors
import socket
import threading
import time

from .waiting import DEADLINE, eventually

# What a run does: three pieces of text, 15 ms apart.
RUN = {"sessionMode": "run", "model": "offline/demo", "body": "@stream 3 every 15 ms"}
CONNECT = b'CONNECT {"verbose":false,"pedantic":false,"headers":true,"no_responders":true}\r\nSUB _INBOX.overload.%d 1\r\n'


class Asking:
    """One request at a time, over a connection of its own."""

    def __init__(self, daemon, address, name, number):
        self.name = name
        self.asked = self.refusal = None
        self.rest = b""
        request = json.dumps({**RUN, "cwd": str(daemon.cwd), "from": name}).encode()
        self.publish = b"PUB %s _INBOX.overload.%d %d\r\n%s\r\n" % (daemon.intake.encode(), number, len(request), request)
        self.connection = socket.create_connection(address.split(":"), DEADLINE)
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connection.sendall(CONNECT % number)

    def ask(self):
        self.asked, self.refusal = time.monotonic(), None
        self.connection.sendall(self.publish)

    def is_answered(self):
        """Reads what is there. True at the end of an answer; `refusal` is how long it took and what it said, if it was one."""
        self.rest += self.connection.recv(1 << 16)
        ended = False
        while (at := self.rest.find(b"\r\n")) >= 0:
            line = self.rest[:at].split()
            if line[0] not in (b"MSG", b"HMSG"):
                if line[0] == b"PING":
                    self.connection.sendall(b"PONG\r\n")
                self.rest = self.rest[at + 2 :]
                continue
            end = at + 2 + int(line[-1])
            if len(self.rest) < end + 2:
                break
            data, self.rest = self.rest[at + 2 : end], self.rest[end + 2 :]
            headers = int(line[-2]) if line[0] == b"HMSG" else 0
            if b"Nats-Service-Error-Code" in data[:headers]:
                self.refusal = time.monotonic() - self.asked, json.loads(data[headers:])
            ended = ended or len(data) == headers
        return ended


class Overload:
    """`callers` has the number of requests that each caller has at a time. Each run ends before the next one is asked for."""

    def __init__(self, daemon, address, callers, retry=0.02):
        self.retry = retry
        self.done = dict.fromkeys(callers, 0)
        # How long each refusal took, seconds, and what it said.
        self.refusals = []
        self.stop = threading.Event()
        names = [name for name, at_a_time in callers.items() for _ in range(at_a_time)]
        self.askings = [Asking(daemon, address, name, number) for number, name in enumerate(names)]
        # One thread has all of them: many would wait for each other longer than for the host.
        self.thread = threading.Thread(target=self._ask)

    def run(self, runs, timeout=DEADLINE):
        """Goes on until there have been so many runs, from when all callers have had one, and the host is not only the first
        one's any more."""
        self.thread.start()
        try:
            begin = eventually(lambda: min(self.done.values()) and dict(self.done), "each has had one", timeout)
            wanted = sum(begin.values()) + runs
            end = eventually(lambda: sum(self.done.values()) >= wanted and dict(self.done), f"{runs} runs", timeout)
            return {name: end[name] - begin[name] for name in end}
        finally:
            self.stop.set()
            self.thread.join(DEADLINE)

    def _ask(self):
        # When to ask again, and for whom.
        later = []
        with selectors.DefaultSelector() as selector:
            for number, asking in enumerate(self.askings):
                selector.register(asking.connection, selectors.EVENT_READ, number)
                asking.ask()
            while not self.stop.is_set():
                wait = max(0, later[0][0] - time.monotonic()) if later else self.retry
                for key, _ in selector.select(wait):
                    asking = self.askings[key.data]
                    if not asking.is_answered():
                        continue
                    if asking.refusal:
                        self.refusals.append(asking.refusal)
                        heapq.heappush(later, (time.monotonic() + self.retry, key.data))
                    else:
                        self.done[asking.name] += 1
                        asking.ask()
                while later and later[0][0] <= time.monotonic():
                    self.askings[heapq.heappop(later)[1]].ask()
        for asking in self.askings:
            asking.connection.close()

    def refused_within(self, part):
        """So many of the refusals, from 0 to 1, took no longer than this, in milliseconds."""
        return sorted(took for took, _ in self.refusals)[int(part * (len(self.refusals) - 1))] * 1000
