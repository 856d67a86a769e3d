"""Whatever is in a conversation, the next request is one that its provider takes.

Conversations are made by a seeded generator: answers with odd names, ids, arguments and blocks, damaged images, changes of
the model in between, restarts. Every request is held against the rules of its API. PROVIDER_SEEDS (a number, or FROM-TO)
plays other conversations than the usual ones.
"""

import os
import random
import threading

import pytest

from support import provider_cases, provider_rules
from support.daemon import API_KEY, Daemon
from support.odd_answers import Oddities
from support.pictures import DAMAGED, SOUND
from support.replay_server import Answer, ReplayServer, json_answer

pytestmark = pytest.mark.any_server

APIS = provider_rules.APIS
# How many requests of one prompt the model answers with something odd.
ODD_ANSWERS = 4
# What every Responses server demands that is asked to store nothing.
RULES = {provider_rules.RESPONSES: ("not-stored",)}


def seeds():
    first, _, last = os.environ.get("PROVIDER_SEEDS", "1-12").partition("-")
    return range(int(first), int(last or first) + 1)


class Model:
    """Answers the requests of one conversation to one provider."""

    def __init__(self, api, oddities):
        self.api, self.oddities = api, oddities
        self.broken = []
        self.requests = []
        # What the next answer says; None = something odd.
        self.plain = None
        self.left = 0
        self._lock = threading.Lock()

    def answer(self, request):
        with self._lock:
            self.requests.append(request)
            words = provider_rules.violation(self.api, request.body, request.headers, RULES.get(self.api, ()))
            if words:
                self.broken.append((words, request.body))
                return json_answer(400, provider_rules.refusal(self.api, words))
            if not provider_rules.offers_tools(self.api, request.body):
                return Answer(self.oddities.plain("## Goal\nTo go on."))
            if self.plain:
                return Answer(self.oddities.plain(self.plain))
            self.left -= 1
            return Answer(self.oddities.answer() if self.left >= 0 else self.oddities.plain("enough"))


FILES = {"sound.png": SOUND["sound.png"], **DAMAGED, "text.txt": b"text\n"}


@pytest.fixture(scope="module")
def replay():
    server = ReplayServer()
    yield server
    server.close()


@pytest.fixture(scope="module")
def daemon(tmp_path_factory, nats_server, bus, replay):
    found = Daemon(tmp_path_factory.mktemp("sendable"), nats_server.url, bus)
    providers = {}
    for seed in seeds():
        for api in APIS:
            name = provider(seed, api)
            url = provider_cases.base_url({"api": api}, replay.base_url(name))
            providers[name] = {"baseUrl": url, "api": api, "apiKey": API_KEY, "models": [provider_cases.MODEL]}
    found.write_agent_file("models.json", {"providers": providers})
    # Many of the answers fail, and nothing here is about the pauses.
    settings = {"retry": {"baseDelayMs": 1, "maxRetries": 1}, "compaction": {"keepRecentTokens": 500}}
    found.write_agent_file("settings.json", settings)
    found.start()
    yield found
    found.close()
    assert "panicked" not in found.log_text()


def provider(seed, api):
    return f"seed{seed}-{api}"


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize("seed", seeds())
def test_every_request_is_one_that_its_provider_takes(daemon, replay, tmp_path, api, seed):
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content)
    chance = random.Random(f"{seed} {api}")
    # The generators of the APIs are apart from the one that decides about the course.
    models = {name: Model(name, Oddities(random.Random(f"{seed} {api} {name}"), name)) for name in APIS}
    for name, model in models.items():
        replay.mount(provider(seed, name), model)
    session, current, course = f"s{seed}-{api}", api, []
    prompts = chance.randint(3, 6)
    for number in range(prompts):
        last = number == prompts - 1
        if number and chance.random() < 0.3:
            current = chance.choice(APIS)
            daemon.bus.ask_json(f"{daemon.subject(session)}.configure", {"model": f"{provider(seed, current)}/recorded"})
            course.append(f"model of {current}")
        if number and chance.random() < 0.06:
            daemon.signal()
            daemon.wait_exit()
            daemon.start()
            course.append("restart")
        for model in models.values():
            model.left = ODD_ANSWERS
            model.plain = "sound" if last else None
        body = chance.choice(["go", "go on", "Ünïcödé 😀", "x" * 5000])
        if number == 0:
            fields = {"cwd": str(tmp_path), "model": f"{provider(seed, current)}/recorded", "thinkingLevel": "low"}
            stream = daemon.session(session, body, tools=["read", "bash", "ls", "write"], **fields)
        else:
            stream = daemon.prompt(session, body)
        text, error = provider_cases.take(stream)
        course.append(f"{current}: {text[-60:]!r} {error and error[:200]!r}")
        daemon.wait_session(session, lambda facts: facts["state"] == "idle", "the session is idle")
        broken = [(name, *found) for name, model in models.items() for found in model.broken]
        if broken:
            name, words, request = broken[0]
            shown = "\n".join([*course, str(request)[-6000:]])
            pytest.fail(f"seed {seed}, {api}: {len(broken)} refused, first by {name}: {words}\n{shown}", pytrace=False)
    daemon.stop_session(session)
    # No conversation is dead at its end.
    assert (text, error) == ("sound", None), "\n".join(course)
