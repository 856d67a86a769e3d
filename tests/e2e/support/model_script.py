"""What a scripted model can be told to do: the steps of an answer."""

import threading
from dataclasses import dataclass, field

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
    """A piece of the event stream, as it is."""


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
