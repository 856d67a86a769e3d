#!/usr/bin/env python3
"""Puts the approvals of all sessions of an owner to a person, here in the terminal, and in a team's chat where that takes the place
of `ask`.

    pip install nats-py
    approver.py [--server nats://127.0.0.1:4222] [--owner $USER]

Its NATS user needs to hear `agents.ev.<owner>.*.question` and to send to `agents.pi-exec.<owner>.*.approve`, nothing else.
"""

import argparse
import asyncio
import getpass
import json

import nats


async def ask(text):
    """The answer to a question with yes or no."""
    return await asyncio.to_thread(input, text)


async def settle(connection, owner, event):
    """Puts a call to a person, and sends what the person says. The hash makes it count for this very call."""
    session, request = event["session"], event["data"]["request"]
    call = f"{request['tool']} {json.dumps(request['arguments'])}"
    said = await ask(f"{session} wants to call {call} (rule: {request['rule']}). Allow? [yes/no, or why not] ")
    settlement = {"requestId": request["id"], "hash": request["hash"], "allow": said == "yes"}
    if said not in ("yes", "no", ""):
        settlement["reason"] = said
    answer = await connection.request(f"agents.pi-exec.{owner}.{session}.approve", json.dumps(settlement).encode(), timeout=10)
    print(answer.data.decode(), flush=True)


async def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--server", default="nats://127.0.0.1:4222")
    parser.add_argument("--owner", default=getpass.getuser())
    options = parser.parse_args()
    connection = await nats.connect(options.server)
    events = await connection.subscribe(f"agents.ev.{options.owner}.*.question")
    await connection.flush()
    print("waiting for approvals", flush=True)
    async for message in events.messages:
        event = json.loads(message.data)
        if event["data"].get("kind") == "approval" and event["data"]["action"] == "opened":
            await settle(connection, options.owner, event)


asyncio.run(main())
