"""Sign-ins of PI: used while they are good, refreshed only where the configuration says how."""

import json
import os
import time
from pathlib import Path

import pytest

from support.daemon import providers
from support.model_script import ToolCall
from support.token_endpoint import TokenEndpoint
from support.waiting import eventually

pytestmark = pytest.mark.any_server

# Every token has this in it, so that one search finds them all.
MARK = "t0ken"
OLD = {"access": f"old-access-{MARK}", "refresh": f"old-refresh-{MARK}"}
NEW = {"access": f"new-access-{MARK}", "refresh": f"new-refresh-{MARK}"}
PROVIDER, MODEL = "scripted-completions", "scripted-completions/two"
HOUR = 3600_000


def now():
    return int(time.time() * 1000)


@pytest.fixture
def endpoint():
    """A token endpoint that gives the new tokens for an hour."""
    made = TokenEndpoint()
    made.answer = {"access_token": NEW["access"], "refresh_token": NEW["refresh"], "expires_in": 3600}
    yield made
    made.close()


def content(path):
    """Nothing, if the daemon has just removed it."""
    try:
        return path.read_bytes() if path.is_file() else b""
    except FileNotFoundError:
        return b""


class SignedIn:
    """A daemon whose user has signed in to a provider."""

    def __init__(self, daemon, model_url):
        self.daemon = daemon
        self.path = daemon.agent_dir / "auth.json"
        models = providers(model_url)
        # Two of the catalog's providers with sign-ins of their own.
        models["providers"].update({"anthropic": {"baseUrl": model_url}, "xai": {"baseUrl": f"{model_url}/v1"}})
        daemon.write_agent_file("models.json", models)

    def write(self, left, provider=PROVIDER, **others):
        """Writes auth.json with a sign-in that ends in `left` milliseconds."""
        entry = {"account": "me", "type": "oauth", **OLD, "expires": now() + left, "more": {"deep": [1, None]}}
        self.daemon.write_agent_file("auth.json", {"first": {"type": "api_key", "key": "k"}, provider: entry, **others})

    def entry(self, provider=PROVIDER):
        return json.loads(self.path.read_text())[provider]

    def refresh_at(self, endpoint, provider=PROVIDER, **more):
        self.daemon.config["oauthRefresh"] = {provider: {"tokenUrl": endpoint.url, "clientId": "my-client", **more}}

    def start(self):
        self.daemon.start("--log", "trace")
        return self.daemon

    def assert_no_leak(self):
        assert MARK not in self.daemon.log_text()
        for folder, _, names in os.walk(self.daemon.home):
            for path in (Path(folder) / name for name in names):
                if path != self.path:
                    assert MARK.encode() not in content(path), path


@pytest.fixture
def signed_in(new_daemon, model):
    found = SignedIn(new_daemon(), model.url)
    yield found
    found.assert_no_leak()


@pytest.mark.parametrize(
    ("provider", "spec"),
    [(PROVIDER, MODEL), ("scripted-responses", "scripted-responses/three"), ("xai", "xai/grok-4.7"),
     ("anthropic", "anthropic/claude-sonnet-4-5")],
)
def test_a_good_token_is_used_as_it_is(signed_in, model, provider, spec):
    signed_in.write(HOUR, provider)
    before = signed_in.path.read_bytes()
    model.answer(lambda request: "ok")
    assert signed_in.start().run("x", model=spec).text() == "ok"
    assert model.requests[0].headers["authorization"] == f"Bearer {OLD['access']}"
    assert signed_in.path.read_bytes() == before


@pytest.mark.parametrize("configured", [False, True], ids=["nothing configured", "another provider configured"])
def test_an_expired_token_is_an_error_that_names_the_fix(signed_in, model, endpoint, configured):
    signed_in.write(-1)
    if configured:
        signed_in.refresh_at(endpoint, "xai")
    daemon = signed_in.start()
    refused = daemon.refusal({"sessionMode": "run", "body": "x", "cwd": str(daemon.cwd), "model": MODEL})
    text = json.dumps(refused.document)
    for words in (PROVIDER, str(signed_in.path), "expired", "sign in again", "API key", "oauthRefresh"):
        assert words in text
    assert MARK not in text
    assert not model.requests and not endpoint.requests


@pytest.mark.parametrize(
    ("provider", "spec"),
    [("scripted", "scripted/one"), ("scripted-google", "scripted-google/four"), ("openai-codex", "openai-codex/two"),
     ("github-copilot", "github-copilot/two")],
)
def test_a_sign_in_that_the_api_does_not_take_is_an_error(signed_in, model, provider, spec):
    models = json.loads((signed_in.daemon.agent_dir / "models.json").read_text())
    models["providers"].setdefault(provider, models["providers"][PROVIDER])
    signed_in.daemon.write_agent_file("models.json", models)
    signed_in.write(HOUR, provider)
    daemon = signed_in.start()
    refused = daemon.refusal({"sessionMode": "run", "body": "x", "cwd": str(daemon.cwd), "model": spec})
    text = json.dumps(refused.document)
    assert provider in text and "API key" in text and MARK not in text
    assert not model.requests


def test_ten_sessions_at_once_make_one_refresh(signed_in, model, endpoint):
    signed_in.write(-1, other={"type": "oauth", "access": "a", "refresh": "r", "expires": 5})
    signed_in.refresh_at(endpoint)
    before = json.loads(signed_in.path.read_text())
    daemon = signed_in.start()
    model.answer(lambda request: "ok")
    endpoint.opened.clear()
    streams = [daemon.session(f"s{number}", "x", model=MODEL) for number in range(10)]
    endpoint.wait_for(1)
    assert not model.requests
    asked = now()
    endpoint.opened.set()
    assert [stream.text() for stream in streams] == ["ok"] * 10
    assert {request.key for request in model.requests} == {NEW["access"]}
    (request,) = endpoint.requests
    assert request.content_type == "application/x-www-form-urlencoded"
    assert request.fields == {
        "grant_type": "refresh_token", "refresh_token": OLD["refresh"], "client_id": "my-client"
    }
    after = json.loads(signed_in.path.read_text())
    assert abs(after[PROVIDER]["expires"] - asked - HOUR) < 60_000
    # Nothing else has changed, and nothing has moved.
    after[PROVIDER]["expires"] = before[PROVIDER]["expires"]
    expected = {**before, PROVIDER: {**before[PROVIDER], **NEW}}
    assert after == expected
    assert [list(after), list(after[PROVIDER])] == [list(before), list(before[PROVIDER])]
    assert signed_in.path.stat().st_mode & 0o7777 == 0o600
    # Neither a lock nor a temporary file is left.
    assert not [path.name for path in signed_in.path.parent.iterdir() if "auth" in path.name and path != signed_in.path]
    assert daemon.run("x", model=MODEL).text() == "ok"
    assert len(endpoint.requests) == 1


def test_an_anthropic_sign_in_is_refreshed_in_json(signed_in, model, endpoint):
    signed_in.write(-1, "anthropic")
    signed_in.refresh_at(endpoint, "anthropic")
    endpoint.answer = {"access_token": NEW["access"], "expires_in": 7200}
    model.answer(lambda request: "ok")
    asked = now()
    assert signed_in.start().run("x", model="anthropic/claude-sonnet-4-5").text() == "ok"
    assert endpoint.requests[0].content_type == "application/json"
    assert endpoint.requests[0].fields["refresh_token"] == OLD["refresh"]
    entry = signed_in.entry("anthropic")
    # The endpoint gave no other refresh token. PI notes the end five minutes early.
    assert (entry["access"], entry["refresh"]) == (NEW["access"], OLD["refresh"])
    assert abs(entry["expires"] - asked - 2 * HOUR + 300_000) < 60_000


def test_a_token_that_ends_soon_is_used_when_the_refresh_fails(signed_in, model, endpoint):
    signed_in.write(120_000)
    signed_in.refresh_at(endpoint)
    endpoint.status, endpoint.answer = 503, {}
    model.answer(lambda request: "ok")
    daemon = signed_in.start()
    for _ in range(3):
        assert daemon.run("x", model=MODEL).text() == "ok"
    assert {request.key for request in model.requests} == {OLD["access"]}
    # There is time, so a failing endpoint is not asked for every request.
    assert len(endpoint.requests) == 1
    daemon.wait_log(f"warning: OAuth refresh failed for {PROVIDER}: the endpoint answered 503")


def test_a_refused_refresh_is_an_error_without_tokens(signed_in, model, endpoint):
    signed_in.write(-1)
    signed_in.refresh_at(endpoint)
    endpoint.status = 400
    endpoint.answer = {"error": "invalid_grant", "error_description": f"'{OLD['refresh']}' is unknown", "x": OLD["access"]}
    before = signed_in.path.read_bytes()
    daemon = signed_in.start()
    failed = daemon.session("s", "x", model=MODEL).failure()
    assert f"OAuth refresh failed for {PROVIDER}: the endpoint answered 400 invalid_grant: '[token]' is unknown" in failed.text
    assert "sign in again" in failed.text and MARK not in failed.text
    assert len(endpoint.requests) == 1 and not model.requests
    assert signed_in.path.read_bytes() == before
    # It is in the session's file, without tokens, as the fixture checks.
    assert any("OAuth refresh failed" in path.read_text() for path in daemon.session_files())
    # Signing in again is enough.
    signed_in.write(HOUR)
    model.script("ok")
    assert daemon.prompt("s", "again").text() == "ok"


def test_an_abort_does_not_wait_for_the_endpoint_and_loses_no_token(signed_in, model, endpoint):
    signed_in.write(-1)
    signed_in.refresh_at(endpoint)
    endpoint.opened.clear()
    daemon = signed_in.start()
    stream = daemon.session("s", "x", model=MODEL)
    endpoint.wait_for(1)
    begun = time.monotonic()
    daemon.bus.ask_json(f"{daemon.subject('s')}.abort")
    stream.failure()
    assert time.monotonic() - begun < 2
    assert signed_in.entry()["access"] == OLD["access"]
    endpoint.opened.set()
    eventually(lambda: signed_in.entry()["refresh"] == NEW["refresh"], "the new token is kept")
    model.script("ok")
    assert daemon.prompt("s", "again").text() == "ok"
    assert model.requests[0].key == NEW["access"] and len(endpoint.requests) == 1


def test_a_shutdown_waits_for_a_token_that_is_on_its_way(signed_in, endpoint):
    signed_in.daemon.config["grace"] = 0
    signed_in.write(-1)
    signed_in.refresh_at(endpoint)
    endpoint.opened.clear()
    daemon = signed_in.start()
    daemon.session("s", "x", model=MODEL)
    endpoint.wait_for(1)
    daemon.signal()
    daemon.wait_log("waiting for the sign-in")
    endpoint.opened.set()
    assert daemon.wait_exit() == 0
    assert signed_in.entry()["refresh"] == NEW["refresh"]


def test_what_another_process_got_under_the_lock_is_used(signed_in, model, endpoint):
    signed_in.write(-1)
    signed_in.refresh_at(endpoint)
    daemon = signed_in.start()
    model.answer(lambda request: "ok")
    # As PI does it.
    lock = signed_in.path.with_name("auth.json.lock")
    lock.mkdir()
    stream = daemon.session("s", "x", model=MODEL)
    daemon.wait_log("waiting for the lock")
    theirs = json.loads(signed_in.path.read_text())
    theirs[PROVIDER].update(access=f"their-access-{MARK}", refresh=f"their-refresh-{MARK}", expires=now() + HOUR)
    # PI writes the file in place.
    signed_in.path.write_text(json.dumps(theirs))
    assert not model.requests
    lock.rmdir()
    assert stream.text() == "ok"
    assert model.requests[0].key == f"their-access-{MARK}"
    assert not endpoint.requests
    assert signed_in.entry()["refresh"] == f"their-refresh-{MARK}"


def test_a_lock_that_was_left_behind_is_taken_over(signed_in, model, endpoint):
    signed_in.write(-1)
    signed_in.refresh_at(endpoint)
    lock = signed_in.path.with_name("auth.json.lock")
    lock.mkdir()
    os.utime(lock, (time.time() - 60,) * 2)
    model.answer(lambda request: "ok")
    assert signed_in.start().run("x", model=MODEL).text() == "ok"
    assert not lock.exists() and signed_in.entry()["refresh"] == NEW["refresh"]


def test_programs_and_sessions_never_see_a_token(signed_in, model, endpoint):
    signed_in.write(-1)
    signed_in.refresh_at(endpoint)
    daemon = signed_in.start()
    model.script([ToolCall("bash", {"command": "env; tr '\\0' '\\n' < /proc/$$/environ"})], "done")
    assert daemon.session("s", "x", model=MODEL).text() == "done"
    ((text, _),) = model.requests[1].tool_results
    assert "PATH=" in text and MARK not in text
    assert len(endpoint.requests) == 1
    assert daemon.session_files()


def test_check_shows_where_sign_ins_are_refreshed(new_daemon, endpoint):
    daemon = new_daemon()
    daemon.config["oauthRefresh"] = {"xai": {"tokenUrl": endpoint.url, "clientId": "my-client"}}
    assert json.loads(daemon.values()["oauthRefresh"]) == daemon.config["oauthRefresh"]


@pytest.mark.parametrize(
    ("entry", "word"),
    [
        ({"tokenUrl": "http://example.com/token", "clientId": "c"}, "https"),
        ({"tokenUrl": "https://user:pa55@example.com/", "clientId": "c"}, "password"),
        ({"tokenUrl": "https://example.com/token"}, "clientId"),
        ({"clientId": "c"}, "tokenUrl"),
        ({"tokenUrl": "https://example.com/", "clientId": "c", "clientSecret": "pa55"}, "clientSecret"),
        ("https://example.com/", "oauthRefresh"),
    ],
)
def test_a_wrong_setting_ends_with_78(new_daemon, entry, word):
    daemon = new_daemon()
    daemon.config["oauthRefresh"] = {"xai": entry}
    done = daemon.run_to_end("--check")
    assert done.returncode == 78
    assert "xai" in done.stderr and word in done.stderr and "pa55" not in done.stderr
