"""The wire formats of model providers: how a request is read and how an answer is streamed, one class per API.

Static methods read the body of a request. An object writes one answer, as pieces of an event stream.
"""

import json

from .model_script import Text, Thinking


def to_json(value):
    """As providers write it: characters as they are, not escaped."""
    return json.dumps(value, ensure_ascii=False)


def event(data, name=None):
    return (f"event: {name}\n" if name else "") + f"data: {to_json(data)}\n\n"


def text_of(content):
    """The text of a message, which is a string or a list of blocks."""
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(block["text"] for block in content if block.get("type") in ("text", "input_text", "output_text"))


def arguments_of(call):
    return call.arguments if isinstance(call.arguments, str) else json.dumps(call.arguments)


def halves(text):
    """In two pieces, as providers do."""
    middle = len(text) // 2
    return text[:middle], text[middle:]


class Anthropic:
    """anthropic-messages"""

    @staticmethod
    def matches(path):
        return path.endswith("/v1/messages")

    @staticmethod
    def system(body):
        return text_of(body.get("system"))

    @staticmethod
    def conversation(body):
        return [(message["role"], text_of(message["content"])) for message in body["messages"]]

    @staticmethod
    def tool_results(body):
        blocks = [block for message in body["messages"] if isinstance(message["content"], list) for block in message["content"]]
        results = [block for block in blocks if block["type"] == "tool_result"]
        return [(text_of(block["content"]), bool(block.get("is_error"))) for block in results]

    @staticmethod
    def tool_names(body):
        return [tool["name"] for tool in body.get("tools", [])]

    def __init__(self, model, usage):
        self._model, self._usage = model, usage
        self._index, self._open, self._called = -1, None, False

    @staticmethod
    def _event(name, **fields):
        return event({"type": name, **fields}, name)

    def start(self):
        usage = {
            "input_tokens": self._usage.input,
            "output_tokens": 1,
            "cache_read_input_tokens": self._usage.cache_read,
            "cache_creation_input_tokens": self._usage.cache_write,
        }
        message = {"id": "msg_1", "type": "message", "role": "assistant", "model": self._model, "content": []}
        return self._event("message_start", message={**message, "stop_reason": None, "usage": usage})

    def _close(self):
        if self._open is None:
            return ""
        self._open = None
        return self._event("content_block_stop", index=self._index)

    def _begin(self, kind, block):
        closed = self._close()
        self._open, self._index = kind, self._index + 1
        return closed + self._event("content_block_start", index=self._index, content_block=block)

    def _delta(self, **delta):
        return self._event("content_block_delta", index=self._index, delta=delta)

    def step(self, step):
        if isinstance(step, Text):
            first = "" if self._open == "text" else self._begin("text", {"type": "text", "text": ""})
            yield first + self._delta(type="text_delta", text=step.text)
        elif isinstance(step, Thinking):
            first = self._begin("thinking", {"type": "thinking", "thinking": "", "signature": ""})
            yield first + self._delta(type="thinking_delta", thinking=step.text)
            yield self._delta(type="signature_delta", signature="c2ln")
        else:
            self._called = True
            call = {"type": "tool_use", "id": step.id or f"toolu_{id(step):x}", "name": step.name, "input": {}}
            yield self._begin("tool", call)
            for piece in halves(arguments_of(step)):
                yield self._delta(type="input_json_delta", partial_json=piece)

    def end(self, reason):
        reason = reason or ("tool_use" if self._called else "end_turn")
        delta = {"stop_reason": reason, "stop_sequence": None}
        usage = {"output_tokens": self._usage.output}
        return self._close() + self._event("message_delta", delta=delta, usage=usage) + self._event("message_stop")


class OpenaiCompletions:
    """openai-completions"""

    @staticmethod
    def matches(path):
        return path.endswith("/chat/completions")

    @staticmethod
    def system(body):
        prompts = [message for message in body["messages"] if message["role"] in ("system", "developer")]
        return "\n".join(text_of(message["content"]) for message in prompts)

    @staticmethod
    def conversation(body):
        return [(message["role"], text_of(message.get("content"))) for message in body["messages"]]

    @staticmethod
    def tool_results(body):
        return [(text_of(message["content"]), None) for message in body["messages"] if message["role"] == "tool"]

    @staticmethod
    def tool_names(body):
        return [tool["function"]["name"] for tool in body.get("tools", [])]

    def __init__(self, model, usage):
        self._model, self._usage, self._calls = model, usage, 0

    def _chunk(self, delta, reason=None):
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        return event({"id": "c1", "object": "chat.completion.chunk", "model": self._model, "choices": [choice]})

    def start(self):
        return self._chunk({"role": "assistant", "content": ""})

    def step(self, step):
        if isinstance(step, Text):
            yield self._chunk({"content": step.text})
        elif isinstance(step, Thinking):
            yield self._chunk({"reasoning_content": step.text})
        else:
            index, self._calls = self._calls, self._calls + 1
            call = {"index": index, "id": step.id or f"call_{id(step):x}", "type": "function"}
            yield self._chunk({"tool_calls": [{**call, "function": {"name": step.name, "arguments": ""}}]})
            for piece in halves(arguments_of(step)):
                yield self._chunk({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})

    def end(self, reason):
        # Tokens from the cache are part of the prompt's tokens in this API.
        usage = {
            "prompt_tokens": self._usage.input + self._usage.cache_read + self._usage.cache_write,
            "completion_tokens": self._usage.output,
            "prompt_tokens_details": {
                "cached_tokens": self._usage.cache_read,
                "cache_write_tokens": self._usage.cache_write,
            },
        }
        last = {"id": "c1", "object": "chat.completion.chunk", "model": self._model, "choices": [], "usage": usage}
        return self._chunk({}, reason or ("tool_calls" if self._calls else "stop")) + event(last) + "data: [DONE]\n\n"


class OpenaiResponses:
    """openai-responses"""

    @staticmethod
    def matches(path):
        return path.endswith("/responses")

    @staticmethod
    def system(body):
        prompts = [item for item in body["input"] if item.get("role") in ("system", "developer")]
        return "\n".join(text_of(item["content"]) for item in prompts)

    @staticmethod
    def conversation(body):
        return [(item["role"], text_of(item["content"])) for item in body["input"] if "role" in item]

    @staticmethod
    def tool_results(body):
        outputs = [item for item in body["input"] if item.get("type") == "function_call_output"]
        return [(text_of(item["output"]), None) for item in outputs]

    @staticmethod
    def tool_names(body):
        return [tool["name"] for tool in body.get("tools", [])]

    def __init__(self, model, usage):
        self._model, self._usage = model, usage
        self._index, self._open, self._text = -1, None, ""

    @staticmethod
    def _event(name, **fields):
        return event({"type": name, **fields}, name)

    def start(self):
        return self._event("response.created", response={"id": "resp_1", "model": self._model, "status": "in_progress"})

    def _message(self):
        content = [{"type": "output_text", "text": self._text}] if self._text else []
        return {"type": "message", "id": "msg_1", "role": "assistant", "content": content}

    def _close(self):
        if self._open != "message":
            return ""
        done = self._event("response.output_item.done", output_index=self._index, item=self._message())
        self._open, self._text = None, ""
        return done

    def _begin(self, kind, item):
        closed = self._close()
        self._open, self._index = kind, self._index + 1
        return closed + self._event("response.output_item.added", output_index=self._index, item=item)

    def step(self, step):
        if isinstance(step, Text):
            first = "" if self._open == "message" else self._begin("message", self._message())
            self._text += step.text
            place = {"output_index": self._index, "content_index": 0}
            yield first + self._event("response.output_text.delta", **place, delta=step.text)
        elif isinstance(step, Thinking):
            item = {"type": "reasoning", "id": "rs_1", "summary": []}
            yield self._begin("reasoning", item)
            yield self._event("response.reasoning_summary_text.delta", output_index=self._index, delta=step.text)
            item["summary"] = [{"type": "summary_text", "text": step.text}]
            yield self._event("response.output_item.done", output_index=self._index, item=item)
        else:
            call = {"type": "function_call", "id": f"fc_{id(step):x}", "call_id": step.id or f"call_{id(step):x}"}
            call |= {"name": step.name, "arguments": ""}
            yield self._begin("call", call)
            arguments, name = arguments_of(step), "response.function_call_arguments"
            for piece in halves(arguments):
                yield self._event(f"{name}.delta", output_index=self._index, delta=piece)
            yield self._event(f"{name}.done", output_index=self._index, arguments=arguments)
            done = {**call, "arguments": arguments}
            yield self._event("response.output_item.done", output_index=self._index, item=done)

    def end(self, reason):
        # Tokens from the cache are part of the input tokens in this API.
        total_input = self._usage.input + self._usage.cache_read + self._usage.cache_write
        usage = {
            "input_tokens": total_input,
            "input_tokens_details": {
                "cached_tokens": self._usage.cache_read,
                "cache_write_tokens": self._usage.cache_write,
            },
            "output_tokens": self._usage.output,
            "total_tokens": total_input + self._usage.output,
        }
        response = {"id": "resp_1", "model": self._model, "status": "completed", "usage": usage}
        if reason:
            response |= {"status": "incomplete", "incomplete_details": {"reason": reason}}
        return self._close() + self._event(f"response.{response['status']}", response=response)


class Google:
    """google-generative-ai"""

    @staticmethod
    def matches(path):
        return path.endswith(":streamGenerateContent")

    @staticmethod
    def _parts(body):
        return [(content["role"], part) for content in body["contents"] for part in content["parts"]]

    @staticmethod
    def system(body):
        return "".join(part["text"] for part in body["systemInstruction"]["parts"])

    @staticmethod
    def conversation(body):
        roles = {"user": "user", "model": "assistant"}
        return [(roles[role], part["text"]) for role, part in Google._parts(body) if "text" in part and not part.get("thought")]

    @staticmethod
    def tool_results(body):
        responses = [part["functionResponse"]["response"] for _, part in Google._parts(body) if "functionResponse" in part]
        return [(response.get("output", response.get("error")), "error" in response) for response in responses]

    @staticmethod
    def tool_names(body):
        return [tool["name"] for group in body.get("tools", []) for tool in group["functionDeclarations"]]

    def __init__(self, model, usage):
        self._model, self._usage = model, usage

    def _chunk(self, parts, **fields):
        candidate = {"index": 0, "content": {"role": "model", "parts": parts}, **fields}
        return {"candidates": [candidate], "modelVersion": self._model, "responseId": "r1"}

    def start(self):
        # This API has no event before the first part.
        return ""

    def step(self, step):
        if isinstance(step, Text):
            yield event(self._chunk([{"text": step.text}]))
        elif isinstance(step, Thinking):
            yield event(self._chunk([{"text": step.text, "thought": True}]))
        else:
            yield event(self._chunk([{"functionCall": {"name": step.name, "args": step.arguments}}]))

    def end(self, reason):
        prompt = self._usage.input + self._usage.cache_read
        usage = {
            "promptTokenCount": prompt,
            "cachedContentTokenCount": self._usage.cache_read,
            "candidatesTokenCount": self._usage.output,
            "totalTokenCount": prompt + self._usage.output,
        }
        return event({**self._chunk([], finishReason=reason or "STOP"), "usageMetadata": usage})


APIS = (Anthropic, OpenaiCompletions, OpenaiResponses, Google)
