"""What model services demand of a request, as pure functions over its body and headers.

`violation` says which rule a request breaks, in words like those of the service, or None. The rules are those of the
services' documentation and of the refusals that they are known to answer with; provider_cases/README.md lists them.
"""

import base64
import hashlib
import json
import re

ANTHROPIC = "anthropic-messages"
COMPLETIONS = "openai-completions"
RESPONSES = "openai-responses"
GOOGLE = "google-generative-ai"
APIS = (ANTHROPIC, COMPLETIONS, RESPONSES, GOOGLE)

NAMES = {
    ANTHROPIC: re.compile(r"[a-zA-Z0-9_-]{1,128}"),
    COMPLETIONS: re.compile(r"[a-zA-Z0-9_-]{1,64}"),
    RESPONSES: re.compile(r"[a-zA-Z0-9_-]{1,64}"),
    GOOGLE: re.compile(r"[a-zA-Z_][a-zA-Z0-9_.:-]{0,63}"),
}
BINDING_BETA = "thinking-binding-controls-2026-08-01"
THOUGHTS = ("thinking", "redacted_thinking")


class Broken(Exception):
    """A rule is broken; the text is what the service says."""


def violation(api, body, headers, rules=()):
    """What the service would refuse this request for, or None. `rules` names those that not every server of an API has;
    the names of `headers` are in lower case."""
    check = {ANTHROPIC: _anthropic, COMPLETIONS: _completions, RESPONSES: _responses, GOOGLE: _google}[api]
    try:
        check(body, headers, rules)
    except Broken as broken:
        return str(broken)
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        return f"The request is not of this API: {error!r}"
    return None


def refusal(api, words):
    """The body of the 400 that the service answers a broken rule with."""
    if api == ANTHROPIC:
        return {"type": "error", "error": {"type": "invalid_request_error", "message": words}}
    if api == GOOGLE:
        return {"error": {"code": 400, "message": words, "status": "INVALID_ARGUMENT"}}
    return {"error": {"message": words, "type": "invalid_request_error", "param": None, "code": None}}


def offers_tools(api, body):
    """Whether the model may call tools; a request for a summary offers none."""
    if api == GOOGLE:
        return any(group.get("functionDeclarations") for group in body.get("tools") or [])
    return bool(body.get("tools"))


def ends_with_results(api, body):
    """Whether the last message of the request holds results of tools."""
    if api == ANTHROPIC:
        last = body["messages"][-1]
        return last["role"] == "user" and any(block["type"] == "tool_result" for block in _blocks(last))
    if api == COMPLETIONS:
        return body["messages"][-1]["role"] == "tool"
    if api == RESPONSES:
        return isinstance(body["input"], list) and body["input"][-1].get("type") == "function_call_output"
    return any("functionResponse" in part for part in body["contents"][-1]["parts"])


def _require(condition, words):
    if not condition:
        raise Broken(words)


def _name(api, name, where):
    pattern = NAMES[api]
    _require(
        isinstance(name, str) and pattern.fullmatch(name),
        f"Invalid '{where}': string does not match pattern. Expected a string that matches the pattern '^{pattern.pattern}$'.",
    )


def _arguments(text, where):
    """The arguments of a call, which are a text with a JSON object in it."""
    try:
        parsed = json.loads(text)
    except (TypeError, ValueError):
        raise Broken(f"Invalid '{where}': arguments must be valid JSON") from None
    _require(isinstance(parsed, dict), f"Invalid '{where}': arguments must be a JSON object")


# Anthropic Messages.


def _blocks(message):
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _anthropic(body, headers, rules):
    # A message that only sets the effort holds nothing else and may stand anywhere.
    messages = [message for message in body["messages"] if message["role"] != "system" or "output_config" not in message]
    _require(messages, "messages: at least one message is required")
    _require(
        messages[-1]["role"] == "user",
        "This model does not support assistant message prefill. The conversation must end with a user message.",
    )
    ids = set()
    open_calls = []
    for number, message in enumerate(messages):
        where = f"messages.{number}"
        blocks = _blocks(message)
        _require(blocks, f"{where}: all messages must have non-empty content")
        results = []
        calls = []
        for place, block in enumerate(blocks):
            _anthropic_block(message["role"], block, f"{where}.content.{place}")
            if block["type"] == "tool_use":
                _require(block["id"] not in ids, f"{where}.content.{place}: `tool_use` ids must be unique")
                ids.add(block["id"])
                calls.append(block["id"])
            if block["type"] == "tool_result":
                _require(
                    place == len(results),
                    f"{where}.content.{place}: `tool_result` blocks must come before all other blocks of a message.",
                )
                _require(
                    block["tool_use_id"] in open_calls,
                    f"{where}.content.{place}: unexpected `tool_use_id` found in `tool_result` blocks: "
                    f"{block['tool_use_id']}. Each `tool_result` block must have a corresponding `tool_use` block in the "
                    "previous message.",
                )
                _require(
                    block["tool_use_id"] not in results,
                    f"{where}.content.{place}: each tool_use must have a single result. Found multiple `tool_result` blocks "
                    f"with id: {block['tool_use_id']}",
                )
                results.append(block["tool_use_id"])
        missing = [call for call in open_calls if call not in results]
        _require(
            not missing,
            f"{where}: `tool_use` ids were found without `tool_result` blocks immediately after: {', '.join(missing)}. Each "
            "`tool_use` block must have a corresponding `tool_result` block in the next message.",
        )
        open_calls = calls
        if message["role"] == "assistant":
            _require(blocks[-1]["type"] not in THOUGHTS, f"{where}: The final block in an assistant message cannot be `thinking`.")
    _require(
        not open_calls,
        f"messages: `tool_use` ids were found without `tool_result` blocks immediately after: {', '.join(open_calls)}",
    )
    if "thinking-bound" in rules:
        _bound(body, headers)


def _anthropic_block(role, block, where):
    kind = block["type"]
    if kind == "text":
        _require(isinstance(block["text"], str) and block["text"].strip(), f"{where}: text content blocks must be non-empty")
    elif kind in ("tool_use", "thinking", "redacted_thinking"):
        _require(role == "assistant", f"{where}: `{kind}` blocks can only be in `assistant` messages")
    elif kind == "tool_result":
        _require(role == "user", f"{where}: `tool_result` blocks can only be in `user` messages")
    if kind == "tool_use":
        _name(ANTHROPIC, block["name"], f"{where}.tool_use.name")
        _require(isinstance(block["id"], str) and block["id"], f"{where}.tool_use.id: String should have at least 1 character")
        _require(
            re.fullmatch(r"[a-zA-Z0-9_-]+", block["id"]),
            f"{where}.tool_use.id: String should match pattern '^[a-zA-Z0-9_-]+$'",
        )
        _require(isinstance(block["input"], dict), f"{where}.tool_use.input: Input should be a valid dictionary")
    if kind == "tool_result":
        for part in block.get("content") or []:
            if isinstance(part, dict) and part["type"] == "text":
                _require(part["text"].strip(), f"{where}.tool_result: text content blocks must be non-empty")
    if kind == "thinking":
        _require(block.get("signature"), f"{where}.thinking.signature: Field required")
    if kind == "redacted_thinking":
        _require(block.get("data"), f"{where}.redacted_thinking.data: Field required")


def _without_cache_control(value):
    if isinstance(value, dict):
        return {name: _without_cache_control(part) for name, part in value.items() if name != "cache_control"}
    if isinstance(value, list):
        return [_without_cache_control(part) for part in value]
    return value


def _digest(value):
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _prefix(body, messages):
    """What the thinking of an answer to `messages` is bound to, but for the thinking before it."""
    kept = []
    for message in messages:
        blocks = [block for block in _blocks(message) if block["type"] not in THOUGHTS]
        if blocks:
            kept.append([message["role"], blocks])
    return _digest(_without_cache_control([body.get("system"), body.get("tools"), kept]))


def _mark(block):
    """What tells a thinking block from every other."""
    return _digest(block.get("signature") or block.get("data"))


def signature(body, number, before=None):
    """A signature for a thinking block of the answer to the request `body`. `before` is the one of the thinking block
    before it in the same answer, and `number` makes it unlike all others."""
    if before is None:
        thoughts = [block for message in body["messages"] for block in _blocks(message) if block["type"] in THOUGHTS]
        mark = _mark(thoughts[-1]) if thoughts else None
    else:
        mark = _digest(before)
    bound = {"prefix": _prefix(body, body["messages"]), "before": mark, "number": number}
    return base64.b64encode(json.dumps(bound).encode()).decode()


def _bound(body, headers):
    """Anthropic's preserved thinking: a block is valid only behind what it was made behind."""
    binding = (body.get("thinking") or {}).get("block_binding")
    if binding is not None:
        _require(
            BINDING_BETA in headers.get("anthropic-beta", ""),
            "thinking.block_binding: Extra inputs are not permitted",
        )
    drops = (binding or {}).get("prefix_mismatch_behavior") == "drop_block"
    before = None
    for number, message in enumerate(body["messages"]):
        for place, block in enumerate(_blocks(message)):
            if block["type"] not in THOUGHTS:
                continue
            where = f"messages.{number}.content.{place}"
            if block["type"] == "thinking":
                try:
                    bound = json.loads(base64.b64decode(block["signature"], validate=True))
                    prefix, mark = bound["prefix"], bound["before"]
                except (ValueError, TypeError, KeyError):
                    raise Broken(f"{where}: Invalid `signature` in `thinking` block") from None
                holds = prefix == _prefix(body, body["messages"][:number]) and (before is None or before == mark)
                _require(holds or drops, f"{where}: The block is bound to a different conversation")
                if not holds:
                    continue
            before = _mark(block)


# Chat Completions.


def _completions(body, headers, rules):
    messages = body["messages"]
    _require(messages, "[] is too short - 'messages'")
    waiting = []
    for number, message in enumerate(messages):
        where = f"messages[{number}]"
        role = message["role"]
        if role == "tool":
            _require(
                message.get("tool_call_id") in waiting,
                f"Invalid parameter: messages with role 'tool' must be a response to a preceding message with 'tool_calls'. ({where})",
            )
            waiting.remove(message["tool_call_id"])
            continue
        _require(
            not waiting,
            "An assistant message with 'tool_calls' must be followed by tool messages responding to each 'tool_call_id'. The "
            f"following tool_call_ids did not have response messages: {', '.join(waiting)}",
        )
        _require(
            role != "developer" or "no-developer-role" not in rules,
            f"'{where}' : discriminator property 'role' has invalid value: developer",
        )
        _require(role in ("system", "developer", "user", "assistant"), f"Invalid value: '{role}' ({where}.role)")
        calls = message.get("tool_calls") or []
        if role == "assistant":
            _require(
                calls or message.get("content"),
                f"Invalid assistant message: content or tool_calls must be set ({where})",
            )
        else:
            _require(message.get("content") is not None, f"Invalid value for 'content': expected a string, got null. ({where})")
        for place, call in enumerate(calls):
            here = f"{where}.tool_calls[{place}]"
            _require(isinstance(call.get("id"), str) and call["id"], f"Missing required parameter: '{here}.id'.")
            _require(call["id"] not in waiting, f"Duplicate value for 'tool_call_id': {call['id']} ({here})")
            _name(COMPLETIONS, call["function"].get("name"), f"{here}.function.name")
            _arguments(call["function"].get("arguments"), f"{here}.function.arguments")
            waiting.append(call["id"])
        if calls and "chat-thought-signatures" in rules:
            google = (calls[0].get("extra_content") or {}).get("google") or {}
            _require(
                google.get("thought_signature"),
                f"Function call is missing a thought_signature in functionCall parts ({where}.tool_calls[0])",
            )
    _require(
        not waiting,
        "An assistant message with 'tool_calls' must be followed by tool messages responding to each 'tool_call_id'. The "
        f"following tool_call_ids did not have response messages: {', '.join(waiting)}",
    )


# Responses.


def _responses(body, headers, rules):
    items = body["input"]
    if isinstance(items, str):
        return
    _require(items, "Missing required parameter: 'input'.")
    ids, calls, waiting = set(), set(), []
    for number, item in enumerate(items):
        where = f"input[{number}]"
        kind = item.get("type") or "message"
        if "id" in item:
            _require(isinstance(item["id"], str) and item["id"], f"Invalid '{where}.id': empty string.")
            _require(
                item["id"] not in ids,
                f"Duplicate item found with id {item['id']}. Remove duplicate items from your input and try again.",
            )
            ids.add(item["id"])
        if kind == "function_call":
            call = item.get("call_id")
            _require(
                isinstance(call, str) and call,
                f"Invalid '{where}.call_id': empty string. Expected a string with minimum length 1.",
            )
            _require(len(call) <= 64, f"Invalid '{where}.call_id': string too long. Expected a string with maximum length 64.")
            _require(call not in calls, f"Duplicate function call with call_id {call} ({where})")
            _name(RESPONSES, item.get("name"), f"{where}.name")
            _arguments(item.get("arguments"), f"{where}.arguments")
            calls.add(call)
            waiting.append(call)
        elif kind == "function_call_output":
            call = item.get("call_id")
            _require(call in waiting, f"No tool call found for function call output with call_id {call}.")
            waiting.remove(call)
        elif kind == "reasoning":
            _reasoning(items, number, rules)
        elif item.get("role") != "assistant":
            # An answer may go on with words behind its calls, so that these stand between call and result.
            _require(not waiting, f"No tool output found for function call {', '.join(waiting)}.")
    _require(not waiting, f"No tool output found for function call {', '.join(waiting)}.")


def _reasoning(items, number, rules):
    item = items[number]
    if "not-stored" in rules:
        _require(
            item.get("encrypted_content"),
            f"Item with id '{item.get('id')}' not found. Items are not persisted when `store` is set to false. Try again with "
            "`store` set to true, or remove this item from your input.",
        )
    after = next((later for later in items[number + 1 :] if later.get("type") != "reasoning"), {})
    followed = after.get("type") == "function_call" or after.get("role") == "assistant"
    _require(
        followed,
        f"Item '{item.get('id')}' of type 'reasoning' was provided without its required following item.",
    )


# Google.


def _google(body, headers, rules):
    contents = body["contents"]
    _require(contents, "* GenerateContentRequest.contents: contents is not specified")
    waiting = None
    users = [number for number, content in enumerate(contents) if content["role"] == "user"]
    last_words = max((number for number in users if any("text" in part for part in contents[number]["parts"])), default=-1)
    for number, content in enumerate(contents):
        where = f"contents[{number}]"
        parts = content.get("parts")
        _require(parts, f"* GenerateContentRequest.{where}.parts: contents.parts must not be empty.")
        calls, results = [], []
        for place, part in enumerate(parts):
            here = f"{where}.parts[{place}]"
            _google_part(part, here)
            if "functionCall" in part:
                calls.append(part["functionCall"]["name"])
            if "functionResponse" in part:
                results.append(part["functionResponse"].get("name"))
        if results or waiting:
            _require(
                sorted(results) == sorted(waiting or []),
                "Please ensure that the number of function response parts is equal to the number of function call parts of the "
                f"function call turn, with the same names. ({where}: {results} for {waiting})",
            )
        waiting = calls
        if calls:
            _require(content["role"] == "model", f"{where}: a function call turn is a turn of the model")
            if number > last_words and "google-thought-signatures" in rules:
                first = next(part for part in parts if "functionCall" in part)
                _require(
                    first.get("thoughtSignature"),
                    f"Function call is missing a thought_signature in functionCall parts. ({where}, {calls[0]})",
                )
    _require(
        not waiting,
        "Please ensure that function response turn comes immediately after a function call turn. And the number of function "
        "response parts should be equal to the number of function call parts of the function call turn.",
    )


def _google_part(part, where):
    data = {name: value for name, value in part.items() if name not in ("thought", "thoughtSignature")}
    _require(
        len(data) == 1,
        f"* GenerateContentRequest.{where}.data: required oneof field 'data' must have one initialized field",
    )
    if "text" in part:
        # A part may be empty when it is there to carry a signature.
        _require(
            part["text"] or part.get("thoughtSignature"),
            f"Unable to submit request because it has an empty text parameter ({where})",
        )
    if "functionCall" in part:
        call = part["functionCall"]
        _name(GOOGLE, call.get("name"), f"{where}.function_call.name")
        _require(isinstance(call.get("args", {}), dict), f"Invalid value at '{where}.function_call.args': must be an object")
        _require(call.get("id", "-"), f"Invalid value at '{where}.function_call.id': empty")
    if "functionResponse" in part:
        _name(GOOGLE, part["functionResponse"].get("name"), f"{where}.function_response.name")
        _require(isinstance(part["functionResponse"].get("response"), dict), f"Invalid value at '{where}.function_response.response'")
