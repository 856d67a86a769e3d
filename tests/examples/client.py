#!/usr/bin/env python3
"""A client of nats-pi-bridge: one run, then a session that is asked twice; the text is printed as it comes.

    pip install nats-py
    client.py [--server nats://127.0.0.1:4222] [--owner $USER] [--model offline/demo] FIRST_PROMPT SECOND_PROMPT

Ends with 1 when a request is refused or an answer ends with an error.
"""

import argparse
import asyncio
import getpass
import json
import sys
import uuid

import nats

# The longest silence within an answer that this client puts up with, seconds: a tool may run for a while.
PATIENCE = 600


class Failed(Exception):
    """The daemon refused the request, or the answer ended with an error."""


async def stream(connection, subject, payload):
    """Sends a request and yields the pieces of its answer, until the empty message that ends it. None takes the place of a
    beginning that is void: the answer starts anew."""
    inbox = connection.new_inbox()
    answer = await connection.subscribe(inbox)
    # The same id again, within two minutes, gets the same answer instead of a second run.
    await connection.publish(subject, payload.encode(), reply=inbox, headers={"Nats-Msg-Id": str(uuid.uuid4())})
    try:
        while True:
            message = await answer.next_msg(timeout=PATIENCE)
            headers = message.headers or {}
            if headers.get("Status") == "503":
                raise Failed(f"nobody answers on {subject}")
            if "Nats-Service-Error-Code" in headers:
                raise Failed(f"{headers['Nats-Service-Error-Code']} {message.data.decode()}")
            if "Pi-Exec-Restart" in headers:
                yield None
            elif message.data:
                yield message.data.decode()
            else:
                return
    finally:
        await answer.unsubscribe()


async def ask(connection, subject, payload):
    """Prints an answer as it comes."""
    async for piece in stream(connection, subject, payload):
        print("\n[the answer begins anew]" if piece is None else piece, end="", flush=True)
    print()


async def document(connection, subject, request):
    """The answer to a request that has one message."""
    message = await connection.request(subject, json.dumps(request).encode(), timeout=30)
    if "Nats-Service-Error-Code" in (message.headers or {}):
        raise Failed(message.data.decode())
    return json.loads(message.data)


async def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--server", default="nats://127.0.0.1:4222")
    parser.add_argument("--owner", default=getpass.getuser())
    parser.add_argument("--model")
    parser.add_argument("prompts", nargs=2)
    options = parser.parse_args()

    intake = f"agents.pi-exec.{options.owner}"
    first, second = options.prompts
    create = {"body": first, "cwd": "/tmp", "from": "client.py"} | ({"model": options.model} if options.model else {})
    connection = await nats.connect(options.server)
    try:
        # One prompt, and nothing is left of it.
        await ask(connection, intake, json.dumps({"sessionMode": "run", **create}))

        # A session that remembers, until it is stopped.
        session = f"example-{uuid.uuid4().hex[:8]}"
        await ask(connection, intake, json.dumps({"sessionMode": "session", "sessionId": session, **create}))
        try:
            await ask(connection, f"{intake}.{session}", second)
            facts = await document(connection, f"{intake}.{session}.inspect", {})
            print(f"{facts['model']} answered {facts['prompts']} prompts with {facts['tokens']['output']} tokens")
        finally:
            await document(connection, intake, {"sessionMode": "stop", "sessionId": session})
    finally:
        await connection.drain()


try:
    asyncio.run(main())
except Failed as failed:
    sys.exit(f"error: {failed}")
