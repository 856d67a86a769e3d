"""The published client of the agent protocol behind calls that block, and what its messages look like on the wire."""

import json

from synadia_ai.agents import Agents, DiscoverFilter, Query, ResponseChunk, StatusChunk

from .bus import ERROR_CODE, StreamFailed
from .waiting import DEADLINE, eventually


class AgentClient:
    """One caller. It runs on the loop of its `Bus`."""

    def __init__(self, bus, **options):
        self.bus = bus
        self.agents = bus.call(self._make(bus.connection, options))

    @staticmethod
    async def _make(connection, options):
        return Agents(nc=connection, **options)

    def discover(self, **fields):
        """The agents that fit, by name."""
        found = self.bus.call(self.agents.discover(stall=0.3, filter=DiscoverFilter(**fields)))
        return {agent.session_name: agent for agent in found}

    def find(self, owner, name):
        """One agent, as soon as it is there."""
        return eventually(lambda: self.discover(owner=owner).get(name), f"{name} is discovered")

    def prompt(self, agent, text, answer=None, **options):
        """Everything the agent says until the end. `answer` gets each question and returns the reply."""

        async def collect():
            said = []
            async for message in agent.prompt(text, timeout=DEADLINE, **options):
                said.append(message)
                if isinstance(message, Query):
                    await message.reply(answer(message))
            return said

        return Said(self.bus.call(collect()))

    def status(self, agent):
        return self.bus.call(agent.status())


class Said:
    """What an agent said to one prompt."""

    def __init__(self, messages):
        self.statuses = [message.status for message in messages if isinstance(message, StatusChunk)]
        self.queries = [message for message in messages if isinstance(message, Query)]
        self.text = "".join(message.text for message in messages if isinstance(message, ResponseChunk))
        self.first = messages[0] if messages else None


def prompt_subject(daemon, name):
    return f"agents.prompt.pi-exec.{daemon.owner}.{name}"


class Wire:
    """The raw answer to a prompt of the agent protocol."""

    def __init__(self, stream):
        self.stream = stream
        self.sizes = []

    def next(self, timeout=DEADLINE):
        """The next message as (type, data); None at the end; an error message raises."""
        message = self.stream.message(timeout)
        headers = message.headers or {}
        if ERROR_CODE in headers:
            raise StreamFailed(message)
        assert not headers
        if not message.data:
            self.stream.ended = True
            return None
        self.sizes.append(len(message.data))
        chunk = json.loads(message.data)
        assert set(chunk) == {"type", "data"}
        return chunk["type"], chunk["data"]

    def ack(self):
        assert self.next() == ("status", "ack")
        return self

    def rest(self):
        """The messages up to the end."""
        found = []
        while (chunk := self.next()) is not None:
            found.append(chunk)
        return found

    def text(self):
        """The text of the rest; statuses are left out."""
        return "".join(data for kind, data in self.rest() if kind == "response")

    def failure(self):
        """The error that the answer must end with: (number, document). Only the end may follow."""
        try:
            while self.next() is not None:
                pass
        except StreamFailed as failed:
            self.stream.terminator()
            return failed.code, json.loads(failed.text)
        raise AssertionError("the answer ended without an error")


def prompt(daemon, name, payload, headers=None, bus=None):
    """Sends a prompt as it is on the wire."""
    return Wire((bus or daemon.bus).request(prompt_subject(daemon, name), payload, headers))
