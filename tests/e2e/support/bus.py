"""A NATS client for tests that read from top to bottom: nats-py on a thread of its own, behind calls that block."""

import asyncio
import json
import queue
import threading
import time

import nats

from .waiting import DEADLINE

ERROR_CODE = "Nats-Service-Error-Code"
ERROR_TEXT = "Nats-Service-Error"
ERROR_WORD = "Pi-Exec-Error"
RESTART = "Pi-Exec-Restart"
VOID = "Pi-Exec-Void-Bytes"


class NoResponders(AssertionError):
    """Nobody has subscribed to the subject."""


class StreamFailed(AssertionError):
    """The stream had an error message: `code` and `description` are its headers, `text` is what a person reads."""

    def __init__(self, message):
        self.text = message.data.decode()
        self.code, self.description = int(message.headers[ERROR_CODE]), message.headers[ERROR_TEXT]
        self.word = message.headers.get(ERROR_WORD)
        super().__init__(f"{self.code}: {self.text}")


class Stream:
    """The replies to one request, in order."""

    def __init__(self, bus, inbox):
        self._bus, self._messages = bus, queue.Queue()
        self.inbox = inbox
        self.subscription = None
        # What has been taken so far: the payloads that are not empty, as bytes.
        self.payloads = []
        # Where the answer began anew: the text before it, and the message that says so.
        self.restarts = []
        self.ended = False

    def put(self, message):
        self._messages.put((time.monotonic(), message))

    def message(self, timeout=DEADLINE):
        """The next reply, whatever it is."""
        try:
            _, message = self._messages.get(timeout=timeout)
        except queue.Empty:
            raise AssertionError(f"no reply within {timeout} s after {self.payloads[-3:]!r}") from None
        headers = message.headers or {}
        if not message.data and str(headers.get("Status", "")).startswith("503"):
            raise NoResponders("503")
        return message

    def chunk(self, timeout=DEADLINE):
        """The next piece of text as bytes, or None at the end of the stream; an error message raises."""
        assert not self.ended, "the stream has ended"
        message = self.message(timeout)
        headers = message.headers or {}
        if ERROR_CODE in headers:
            raise StreamFailed(message)
        if RESTART in headers:
            self.restarts.append((self.so_far(), message))
            return b""
        assert not headers, f"headers on a piece of text: {headers}"
        if not message.data:
            self.ended = True
            return None
        self.payloads.append(message.data)
        return message.data

    def until(self, text, timeout=DEADLINE):
        """Takes pieces until `text` has been seen; returns all text so far."""
        end = time.monotonic() + timeout
        while text.encode() not in b"".join(self.payloads):
            left = end - time.monotonic()
            assert left > 0, f"{text!r} did not come: {self.payloads!r}"
            assert self.chunk(left) is not None, f"the stream ended before {text!r}: {self.payloads!r}"
        return self.so_far()

    def so_far(self):
        return b"".join(self.payloads).decode()

    def text(self, timeout=DEADLINE):
        """Everything up to the end of the stream."""
        end = time.monotonic() + timeout
        while self.chunk(max(0.001, end - time.monotonic())) is not None:
            pass
        return self.so_far()

    def failure(self, timeout=DEADLINE):
        """The error the stream must end with; checks that only the terminator follows. Text before it is kept."""
        end = time.monotonic() + timeout
        try:
            while self.chunk(max(0.001, end - time.monotonic())) is not None:
                pass
        except StreamFailed as failed:
            self.terminator()
            return failed
        raise AssertionError(f"the stream ended without an error: {self.so_far()!r}")

    def terminator(self, timeout=DEADLINE):
        message = self.message(timeout)
        assert message.data == b"" and not message.headers, f"not a bare end: {message.data!r} {message.headers}"
        self.ended = True

    def pending(self):
        """Replies that have arrived and were not taken."""
        return self._messages.qsize()

    def leave(self):
        """The caller vanishes: its inbox is gone."""
        self._bus.call(self.subscription.unsubscribe())


class Bus:
    """One connection of a caller."""

    def __init__(self, url, **options):
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="bus", daemon=True)
        self._thread.start()
        options = {"reconnect_time_wait": 0.02, "max_reconnect_attempts": -1, "connect_timeout": 5, **options}

        async def quiet(_error):
            """Reconnects are what some tests are about; nats-py would print each attempt."""

        self.connection = self.call(nats.connect(url, error_cb=quiet, **options))

    def call(self, coroutine, timeout=DEADLINE):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(timeout)

    def close(self):
        try:
            self.call(self.connection.close(), timeout=5)
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(5)
            # A worker has thousands of these, and numbers of files up to 1,023 only, where something waits with select().
            self._loop.close()

    def flush(self):
        self.call(self.connection.flush(5))

    def publish(self, subject, payload=b"", reply="", headers=None):
        self.call(self.connection.publish(subject, encode(payload), reply=reply, headers=headers))

    def listen(self, subject):
        """Subscribes; the messages arrive in a Stream."""
        stream = Stream(self, subject)

        async def deliver(message):
            stream.put(message)

        async def subscribe():
            # The limits are lifted because a slow test must not look like a daemon that lost messages.
            stream.subscription = await self.connection.subscribe(
                subject, cb=deliver, pending_msgs_limit=0, pending_bytes_limit=0
            )

        self.call(subscribe())
        return stream

    def request(self, subject, payload=b"", headers=None):
        """Sends a request and returns the stream of its replies."""
        stream = self.listen(self.connection.new_inbox())
        self.publish(subject, payload, reply=stream.inbox, headers=headers)
        return stream

    def ask(self, subject, payload=b"", timeout=DEADLINE, headers=None):
        """The first reply as a message; for requests that have one."""
        stream = self.request(subject, payload, headers)
        try:
            return stream.message(timeout)
        finally:
            stream.leave()

    def is_silent(self, subject, fence):
        """Whether nobody answers on `subject`. Where one subscription of the daemon covers many subjects the server does
        not say so; `fence` is a call that the daemon answers after it has seen the request."""
        stream = self.request(subject)
        try:
            fence()
            self.flush()
            if stream.pending():
                stream.message()
                return False
            return True
        except NoResponders:
            return True
        finally:
            stream.leave()

    def ask_json(self, subject, payload=b"", timeout=DEADLINE, headers=None):
        return json.loads(self.ask(subject, payload, timeout, headers).data)


def encode(payload):
    if isinstance(payload, bytes):
        return payload
    if isinstance(payload, str):
        return payload.encode()
    return json.dumps(payload).encode()
