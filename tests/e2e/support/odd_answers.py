"""Answers as a model server in a bad mood would send them, made out of a seeded random generator.

`Oddities` knows the ingredients; one function per API writes a list of them as that API's event stream. What comes out
is mostly readable, so that it gets into the conversation and has to be sent back.
"""

import json

from . import provider_cases
from .provider_rules import ANTHROPIC, COMPLETIONS, GOOGLE, RESPONSES

NAMES = [
    "bash", "bash", "read", "read", "ls", "write", "", " ", "functions.bash", "Bash", "bash<|channel|>commentary", "ba sh",
    "bäsh", "名前", "x" * 70, "x" * 200, "mcp__server:tool", "bash\n", "1read", "default_api:read",
    "multi_tool_use.parallel", "-", "a/b", "read()", None,
]
IDS = ["", None, "call_a", "call_a", "toolu.with:odd/chars", "y" * 100, "名", "call|fc_1", "call_1 ", "fc_", "|"]
PATHS = ["sound.png", "garbage.png", "ten-bytes.gif", "no-scan.jpg", "noise.webp", "text.txt", "absent.txt"]
TEXTS = ["", " ", "\n\n", "words ", "Ünïcödé 世界 😀", "<think>", "x" * 3000, "\u0000", "\ufeff"]


class Oddities:
    def __init__(self, random, api):
        self.random, self.api = random, api
        self._count = 0

    def answer(self):
        """The body of one answer: a recorded one, or one made of odd blocks."""
        if self.random.random() < 0.35:
            return self.random.choice(_recorded(self.api))
        blocks = [self._block() for _ in range(self.random.choice([0, 1, 1, 2, 2, 3, 4, 6]))]
        end = self.random.choice(["usual", "usual", "usual", "limit", "calls", "odd"])
        return WRITERS[self.api](blocks, end, self)

    def plain(self, text):
        return WRITERS[self.api]([("text", text)], "usual", self)

    def number(self):
        self._count += 1
        return self._count

    def _block(self):
        kind = self.random.choice(["text", "text", "thinking", "thinking", "redacted", "call", "call", "call", "call", "unknown"])
        if kind == "text":
            return kind, self.random.choice(TEXTS)
        if kind == "thinking":
            return kind, (self.random.choice(["", "think", "long " * 50]), self.random.choice(["", None, "c2ln", "QUJDRA=="]))
        if kind == "call":
            call_id = self.random.choice(IDS) if self.random.random() < 0.5 else f"call_{self.random.getrandbits(40):x}"
            return kind, (self.random.choice(NAMES), call_id, self.arguments())
        return kind, None

    def arguments(self):
        """An object as it should be, or a text that stands where one should be."""
        proper = [{"command": "true"}, {"command": "echo é"}, {}, *({"path": path} for path in PATHS)]
        broken = ['{"command": "tr', "[]", "null", '"text"', "5", "", "{}}", '{"path": "sound.png"', '{"command": "a\\ud83d"}', "{'path': 'x'}"]
        return self.random.choice(proper if self.random.random() < 0.7 else broken)

    def usage(self):
        """A count of tokens; now and then so many that the conversation has to be compacted."""
        return self.random.choice([0, 10, 100, 100, 5000, 199_000])


def _recorded(api):
    """The bodies of the recorded answers of an API that are whole event streams."""
    bodies = []
    for case_id in provider_cases.all_ids():
        case = provider_cases.load(case_id)
        for answer in case["answers"]:
            usual = not set(answer) & {"status", "headers", "framing", "writes", "when"}
            if case["api"] == api and usual:
                bodies.append((provider_cases.FOLDER / case_id / answer["file"]).read_bytes())
    return bodies


def _text_of(arguments):
    return arguments if isinstance(arguments, str) else json.dumps(arguments)


def _object_of(arguments):
    """For the API whose arguments are no text: the value that the text stands for, or the text itself."""
    if isinstance(arguments, str):
        try:
            return json.loads(arguments)
        except ValueError:
            return arguments
    return arguments


def _events(events, named=False):
    lines = []
    for event in events:
        name = f"event: {event['type']}\n" if named else ""
        lines.append(f"{name}data: {json.dumps(event)}\n\n")
    return "".join(lines).encode()


def _anthropic(blocks, end, odd):
    usage = {"input_tokens": odd.usage(), "output_tokens": 1}
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": [], "stop_reason": None, "usage": usage}
    events = [{"type": "message_start", "message": message}]
    for index, (kind, value) in enumerate(blocks):
        deltas = []
        if kind == "text":
            start, deltas = {"type": "text", "text": ""}, [{"type": "text_delta", "text": value}]
        elif kind == "thinking":
            thought, signature = value
            start = {"type": "thinking", "thinking": "", "signature": ""}
            deltas = [{"type": "thinking_delta", "thinking": thought}]
            deltas += [{"type": "signature_delta", "signature": signature}] if signature is not None else []
        elif kind == "redacted":
            start = {"type": "redacted_thinking", "data": "cmVkYWN0ZWQ="}
        elif kind == "call":
            name, call_id, arguments = value
            start = {"type": "tool_use", "id": call_id, "name": name, "input": {}}
            deltas = [{"type": "input_json_delta", "partial_json": _text_of(arguments)}]
        else:
            start, deltas = {"type": "surprise", "content": "x"}, [{"type": "surprise_delta", "x": "y"}]
        events.append({"type": "content_block_start", "index": index, "content_block": start})
        events += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas]
        events.append({"type": "content_block_stop", "index": index})
    called = any(kind == "call" for kind, _ in blocks)
    usual = "tool_use" if called else "end_turn"
    reason = {"usual": usual, "limit": "max_tokens", "calls": "tool_use", "odd": "eos"}[end]
    events.append({"type": "message_delta", "delta": {"stop_reason": reason}, "usage": {"output_tokens": 20}})
    return _events([*events, {"type": "message_stop"}], named=True)


def _completions(blocks, end, odd):
    deltas, calls = [{"role": "assistant", "content": ""}], 0
    for kind, value in blocks:
        if kind == "text":
            deltas.append({"content": value})
        elif kind == "thinking":
            thought, signature = value
            detail = {"type": "reasoning.text", "text": thought, "index": 0, "signature": signature}
            deltas.append({"reasoning_details": [detail]} if signature else {"reasoning_content": thought})
        elif kind == "redacted":
            deltas.append({"reasoning_details": [{"type": "reasoning.encrypted", "data": "eHh4", "id": "rs_1", "index": 1}]})
        elif kind == "call":
            name, call_id, arguments = value
            function = {"name": name, "arguments": _text_of(arguments)}
            deltas.append({"tool_calls": [{"index": calls, "id": call_id, "type": "function", "function": function}]})
            calls += 1
        else:
            deltas.append({"surprise": {"x": [1]}, "content": None})
    usual = "tool_calls" if calls else "stop"
    reason = {"usual": usual, "limit": "length", "calls": "tool_calls", "odd": "eos"}[end]
    chunks = [{"id": "c", "choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    chunks.append({"id": "c", "choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
    chunks.append({"id": "c", "choices": [], "usage": {"prompt_tokens": odd.usage(), "completion_tokens": 20}})
    return _events(chunks) + b"data: [DONE]\n\n"


def _responses(blocks, end, odd):
    events = [{"type": "response.created", "response": {"id": "resp_1", "status": "in_progress"}}]
    output = []
    for index, (kind, value) in enumerate(blocks):
        # Some servers count the ids of items anew with every answer.
        own = odd.random.choice([f"{odd.random.getrandbits(48):x}", str(index)])
        if kind == "text":
            item = {"type": "message", "id": f"msg_{own}", "role": "assistant", "content": [{"type": "output_text", "text": value}]}
        elif kind in ("thinking", "redacted"):
            thought = value[0] if value else ""
            item = {"type": "reasoning", "id": f"rs_{own}", "summary": [{"type": "summary_text", "text": thought}]}
            item["encrypted_content"] = odd.random.choice(["ZW5j", "ZW5j", "", None])
        elif kind == "call":
            name, call_id, arguments = value
            item = {"type": "function_call", "id": odd.random.choice([f"fc_{own}", "", None]), "call_id": call_id, "name": name}
            item["arguments"] = _text_of(arguments)
        else:
            item = {"type": "surprise", "id": f"su_{own}", "content": "x"}
        output.append(item)
        begun = {**item, "content": []} if "content" in item else item
        events.append({"type": "response.output_item.added", "output_index": index, "item": begun})
        if kind == "text":
            events.append({"type": "response.output_text.delta", "output_index": index, "item_id": item["id"], "delta": value})
        events.append({"type": "response.output_item.done", "output_index": index, "item": item})
    response = {"id": "resp_1", "status": "completed", "output": output, "usage": {"input_tokens": odd.usage(), "output_tokens": 20}}
    if end == "limit":
        response |= {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
    return _events([*events, {"type": f"response.{response['status']}", "response": response}], named=True)


def _google(blocks, end, odd):
    chunks = []
    for kind, value in blocks:
        if kind == "text":
            part = {"text": value}
        elif kind == "thinking":
            part = {"text": value[0], "thought": True, "thoughtSignature": value[1]}
        elif kind == "redacted":
            part = {"text": "", "thoughtSignature": "QUJDRA=="}
        elif kind == "call":
            name, call_id, arguments = value
            part = {"functionCall": {"name": name, "id": call_id, "args": _object_of(arguments)}}
        else:
            part = {"surprise": {"x": "y"}}
        chunks.append({"candidates": [{"index": 0, "content": {"role": "model", "parts": [part]}}]})
    reason = {"usual": "STOP", "limit": "MAX_TOKENS", "calls": "STOP", "odd": "FINISH_REASON_UNSPECIFIED"}[end]
    counts = {"promptTokenCount": odd.usage(), "candidatesTokenCount": 20, "totalTokenCount": 120}
    last = {"index": 0, "content": {"role": "model", "parts": []}, "finishReason": reason}
    chunks.append({"candidates": [last], "usageMetadata": counts})
    return _events(chunks)


WRITERS = {ANTHROPIC: _anthropic, COMPLETIONS: _completions, RESPONSES: _responses, GOOGLE: _google}
