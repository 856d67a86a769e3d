"""The recorded cases of provider_cases/: where they are, and what has to hold for each.

`play` plays one case against a daemon and returns what came out differently, as a list of sentences.
"""

import json
import re
import time
from pathlib import Path

from .bus import ERROR_CODE, NoResponders

FOLDER = Path(__file__).parents[1] / "provider_cases"
MANIFEST = json.loads((FOLDER / "MANIFEST.json").read_text())
# The entry of models.json that a case may change.
MODEL = {"id": "recorded", "reasoning": True, "contextWindow": 200000, "maxTokens": 16384, "input": ["text", "image"]}
# A prompt may have to wait for a connection that the server holds open, and for retries.
PROMPT_SECONDS = 40


def load(case_id):
    return json.loads((FOLDER / case_id / "case.json").read_text())


def all_ids():
    return [case["id"] for case in MANIFEST["cases"]]


def variants(case):
    """How a case is written to the connection: as it was recorded, and in pieces of odd sizes, unless it has its own, or
    is about time, or has no stream."""
    own = any(set(answer) & {"writes", "writeSize", "holdSeconds"} for answer in case["answers"])
    stream = any(answer["file"].endswith(".sse") and "status" not in answer for answer in case["answers"])
    return ["recorded"] if own or not stream else ["recorded", "odd"]


def model_of(case):
    return {**MODEL, **case.get("model", {})}


def base_url(case, url):
    """The base URL of a custom provider; the path of one API begins with a version, which is part of the others'."""
    return url if case["api"] == "anthropic-messages" else f"{url}/v1"


def play(daemon, player, case, spec, session, folder):
    """Plays the prompts of a case in a session of its own and checks what came of them."""
    case_faults = []
    folder.mkdir(parents=True)
    for number, prompt in enumerate(case["prompts"]):
        for name, content in prompt.get("before", {}).get("write", {}).items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(content)
        (folder / "ran.txt").unlink(missing_ok=True)
        before, start = len(player.requests), time.monotonic()
        if number == 0:
            fields = {"cwd": str(folder), "model": spec, "thinkingLevel": case.get("thinkingLevel", "low")}
            stream = daemon.session(session, prompt["body"], tools=MANIFEST["tools"], **fields)
        else:
            stream = daemon.prompt(session, prompt["body"])
        text, error = take(stream)
        seconds = time.monotonic() - start
        # What follows an answer, a compaction for example, belongs to its prompt.
        try:
            daemon.wait_session(session, lambda facts: facts["state"] == "idle", "the session is idle")
        except NoResponders:
            return [f"there is no session: {error}"]
        ran = folder / "ran.txt"
        seen = {
            "text": text,
            "error": error,
            "requests": len(player.requests) - before,
            "ran": sorted(ran.read_text().splitlines()) if ran.exists() else [],
            "seconds": seconds,
        }
        expected = prompt["expect"] if isinstance(prompt["expect"], list) else [prompt["expect"]]
        faults = [_prompt_faults(one, seen) for one in expected]
        if all(faults):
            shown = {**seen, "seconds": round(seconds, 2)}
            reasons = " | or: ".join("; ".join(found) for found in faults)
            case_faults.append(f"prompt {number + 1} ({prompt['body'][:40]!r}): {reasons}\n    seen: {shown}")
    daemon.stop_session(session)
    messages = _stored(daemon, folder)
    case_faults += _file_faults(case, folder) + _call_faults(case, messages) + _message_faults(case, messages)
    return case_faults + _sent_faults(case, player.requests)


def take(stream):
    """Everything of a stream: the text, and the error's words or None."""
    end = time.monotonic() + PROMPT_SECONDS
    text, error = b"", None
    while True:
        message = stream.message(max(0.001, end - time.monotonic()))
        if ERROR_CODE in (message.headers or {}):
            error = message.data.decode()
        elif message.data:
            text += message.data
        elif not message.headers:
            return text.decode(), error


def _prompt_faults(expect, seen):
    faults = []
    wanted = expect["text"]
    if not (re.search(wanted["re"], seen["text"], re.DOTALL) if isinstance(wanted, dict) else wanted == seen["text"]):
        faults.append(f"text {seen['text'][:200]!r} instead of {wanted!r}")
    if expect["error"] is None:
        if seen["error"] is not None:
            faults.append(f"error {seen['error'][:300]!r}")
    elif seen["error"] is None:
        faults.append(f"no error, {expect['error']} expected")
    else:
        words = seen["error"].lower()
        faults += [f"error without {word!r}: {words[:300]!r}" for word in expect["error"].get("has", []) if word.lower() not in words]
        faults += [f"error with {word!r}: {words[:300]!r}" for word in expect["error"].get("hasNot", []) if word.lower() in words]
    least, most = _range(expect["requests"])
    if not least <= seen["requests"] <= most:
        faults.append(f"{seen['requests']} requests instead of {expect['requests']}")
    if expect["ran"] != "any" and sorted(expect["ran"]) != seen["ran"]:
        faults.append(f"ran {seen['ran']} instead of {expect['ran']}")
    if seen["seconds"] < expect.get("atLeastSeconds", 0):
        faults.append(f"{seen['seconds']:.2f} s, at least {expect['atLeastSeconds']} expected")
    if seen["seconds"] > expect.get("atMostSeconds", PROMPT_SECONDS):
        faults.append(f"{seen['seconds']:.2f} s, at most {expect['atMostSeconds']} expected")
    return faults


def _range(wanted):
    return wanted if isinstance(wanted, list) else (wanted, wanted)


def _stored(daemon, folder):
    """The messages of the session file, in order."""
    for path in daemon.session_files():
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        if lines[0].get("cwd") == str(folder):
            return [line["message"] for line in lines if line["type"] == "message"]
    return []


def _file_faults(case, folder):
    faults = []
    for name, content in case.get("files", {}).items():
        path = folder / name
        found = path.read_text() if path.exists() else None
        if found != content:
            faults.append(f"file {name}: {found!r} instead of {content!r}")
    return faults


def _call_faults(case, messages):
    if "calls" not in case:
        return []
    made = {}
    found = []
    for message in messages:
        if message["role"] == "assistant":
            made.update({block["id"]: block for block in message["content"] if block["type"] == "toolCall"})
        elif message["role"] == "toolResult":
            call = made.get(message["toolCallId"], {})
            ok = not message["isError"]
            found.append({"name": call.get("name"), "arguments": call.get("arguments"), "ok": ok})
    left = list(found)
    for wanted in case["calls"]:
        if wanted in left:
            left.remove(wanted)
    return [] if len(found) == len(case["calls"]) and not left else [f"calls {found} instead of {case['calls']}"]


def _message_faults(case, messages):
    if "message" not in case:
        return []
    good = [one for one in messages if one["role"] == "assistant" and one.get("stopReason") not in ("error", "aborted")]
    if not good:
        return ["no stored answer that did not fail"]
    message = good[0]

    def joined(kind):
        return "".join(block.get(kind) or "" for block in message["content"] if block["type"] == kind)

    seen = {"stopReason": message.get("stopReason"), "text": joined("text"), "thinking": joined("thinking")}
    wanted = dict(case["message"])
    faults = _number_faults("usage", wanted.pop("usage", {}), message.get("usage") or {})
    return faults + [f"stored {name} {seen[name]!r} instead of {value!r}" for name, value in wanted.items() if seen[name] != value]


def _number_faults(where, wanted, found):
    faults = []
    for name, value in wanted.items():
        if isinstance(value, dict):
            faults += _number_faults(f"{where}.{name}", value, found.get(name) or {})
        elif abs((found.get(name) or 0) - value) > 1e-9:
            faults.append(f"stored {where}.{name} {found.get(name)} instead of {value}")
    return faults


def _sent_faults(case, requests):
    faults = []
    for wanted in case.get("sent", []):
        number = len(requests) if wanted["request"] == "last" else wanted["request"]
        if not 0 < number <= len(requests):
            faults.append(f"there is no request {wanted['request']}")
            continue
        count = sum(_matches(wanted["pattern"], value) for value in _values(requests[number - 1].body))
        least, most = _range(wanted["count"])
        if not least <= count <= most:
            faults.append(f"request {number} has {wanted['pattern']} {count} times instead of {wanted['count']}")
    return faults


def _values(value):
    """The value and all that is in it."""
    yield value
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for part in inner:
        yield from _values(part)


def _matches(pattern, value):
    if isinstance(pattern, dict) and set(pattern) == {"re"}:
        return isinstance(value, str) and re.search(pattern["re"], value) is not None
    if isinstance(pattern, dict):
        return isinstance(value, dict) and all(name in value and _matches(part, value[name]) for name, part in pattern.items())
    if isinstance(pattern, list):
        return isinstance(value, list) and len(pattern) == len(value) and all(map(_matches, pattern, value))
    # True is no 1.
    return (type(pattern) is type(value) and pattern == value) or (_numbers(pattern, value) and pattern == value)


def _numbers(*values):
    return all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
