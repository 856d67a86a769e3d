"""A fake session for pi-bridge attach, and what it tells."""

from .fake_bridge import event, response


def fake_session(bridge):
    """A fake session that answers what attach asks at first."""
    bridge.state = {"sessionId": "s1", "sessionName": "demo", "cwd": "/w", "model": {"id": "demo-model"}, "isIdle": True}
    bridge.past = []
    bridge.pending = []
    bridge.on("get_state", lambda request: bridge.state)
    bridge.on("history", lambda request: {"events": bridge.past})
    bridge.on("questions", lambda request: {"available": True, "questions": bridge.pending})
    bridge.on("prompt", lambda request: {"deliveredAs": "now", "idleBeforeSend": True})
    bridge.on("inspect", lambda request: [response(request, error="Unknown command type: inspect")])
    return bridge


def delta(text, kind="text_delta"):
    return event("message_update", type="message_update", assistantMessageEvent={"type": kind, "delta": text})


def said(role, text, **fields):
    return event("message_end", message={"role": role, "content": [{"type": "text", "text": text}], **fields})


def answer(text):
    return said("assistant", text, stopReason="stop", usage={"input": 120, "output": 30, "cost": {"total": 0.0042}})


def question(identity, *parts):
    return {"requestId": identity, "openedAt": "x", "request": {"questions": list(parts)}}


def part(text, labels, **fields):
    options = [{"label": label, "description": ""} for label in labels]
    return {"header": "", "question": text, "options": options, "multiple": False, "allowCustom": True, **fields}
