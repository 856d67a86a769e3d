"""Functions for `ModelServer.answer` that refuse what services refuse: broken rules, too many tokens, images, bytes."""

import base64
import json

import pytest

from . import provider_rules
from .daemon import MODELS
from .model_script import Failure, Stop, Text, Usage
from .provider_apis import Anthropic, Google, OpenaiCompletions, OpenaiResponses

APIS = provider_rules.APIS
API_NAMES = {
    Anthropic: provider_rules.ANTHROPIC,
    OpenaiCompletions: provider_rules.COMPLETIONS,
    OpenaiResponses: provider_rules.RESPONSES,
    Google: provider_rules.GOOGLE,
}
TOO_LONG = {
    provider_rules.ANTHROPIC: "prompt is too long: {tokens} tokens > {limit} maximum",
    provider_rules.COMPLETIONS: "This model's maximum context length is {limit} tokens. However, your messages resulted in "
    "{tokens} tokens. Please reduce the length of the messages.",
    provider_rules.RESPONSES: "Your input exceeds the context window of this model. Please adjust your input and try again.",
    provider_rules.GOOGLE: "The input token count ({tokens}) exceeds the maximum number of tokens allowed ({limit}).",
}
# What the words of a stop at the output limit are in each API.
AT_THE_LIMIT = {
    provider_rules.ANTHROPIC: "max_tokens",
    provider_rules.COMPLETIONS: "length",
    provider_rules.RESPONSES: "max_output_tokens",
    provider_rules.GOOGLE: "MAX_TOKENS",
}


def api_of(request):
    return API_NAMES[request.api]


def refuse(request, words, status=400):
    return Failure(status, provider_rules.refusal(api_of(request), words))


def strictly(answer, refused=None):
    """Refuses every request that breaks a rule of its API. The refusals are appended to `refused`."""

    def reply(request):
        words = provider_rules.violation(api_of(request), request.body, request.headers)
        if words is None:
            return answer(request)
        if refused is not None:
            refused.append(words)
        return refuse(request, words)

    return reply


def tokens_of(request):
    """Four bytes are a token; an image counts as PI counts it, whatever its size."""
    text = json.dumps(request.body, ensure_ascii=False)
    images = encoded_images(request.body)
    return (len(text.encode()) - sum(map(len, images))) // 4 + 1200 * len(images)


def within(limit, answer):
    """Refuses every request of more than `limit` tokens, and counts the tokens of the others."""

    def reply(request):
        tokens = tokens_of(request)
        if tokens > limit:
            return refuse(request, TOO_LONG[api_of(request)].format(tokens=tokens, limit=limit))
        turn = answer(request)
        if isinstance(turn, Failure):
            return turn
        steps = turn if isinstance(turn, list) else [turn]
        return [Text(step) if isinstance(step, str) else step for step in steps] + [Usage(tokens, 20)]

    return reply


def encoded_images(value):
    """The images of a request as base64, in order."""
    if isinstance(value, str):
        head, comma, data = value.partition(";base64,")
        return [data] if comma and head.startswith("data:image/") else []
    if isinstance(value, list):
        return [found for part in value for found in encoded_images(part)]
    if not isinstance(value, dict):
        return []
    # Anthropic's blocks and Google's.
    media = str(value.get("media_type") or value.get("mimeType") or "")
    if media.startswith("image/") and isinstance(value.get("data"), str):
        return [value["data"]]
    return [found for part in value.values() for found in encoded_images(part)]


def images(request):
    return [base64.b64decode(data) for data in encoded_images(request.body)]


def change_models(daemon, **fields):
    """Changes every entry of the daemon's models.json."""
    models = json.loads((daemon.agent_dir / "models.json").read_text())
    for provider in models["providers"].values():
        for definition in provider["models"]:
            definition.update(fields)
    daemon.write_agent_file("models.json", models)


def spec_of(api):
    return MODELS[api]


def spread(names, common):
    """Parameters `name` and `api`: the common names with all APIs, each other one with one of them in turn."""
    pairs = []
    for number, name in enumerate(names):
        apis = APIS if name in common else [APIS[number % len(APIS)]]
        pairs += [pytest.param(name, api, id=f"{ascii(name)[:30]}-{api}") for api in apis]
    return pairs


def at_the_limit(request):
    return Stop(AT_THE_LIMIT[api_of(request)])
