"""Golden answers: what the side channel refuses by rules of its own, each with its code.

What sessions and the daemon refuse is in test_error_codes.py and test_error_codes_daemon.py, over the socket too.
"""

import pytest

from support.bridge import Bridge
from support.daemon import API_KEY
from support.error_forms import bare

# The line that is sent, and the code, the text and the command of its refusal. Requests go to the daemon's socket unless
# the name begins with `session`.
REFUSALS = {
    "no JSON": ('{"id":1,"type":}', "invalid_json", "SyntaxError: expected value at line 1 column 16", "parse"),
    "no type": ('{"id":1}', "invalid_request", "Unknown command type: <missing>", "unknown"),
    "a type that is no text": ('{"id":1,"type":[]}', "invalid_request", "Unknown command type: <missing>", "unknown"),
    "a type that nobody knows": ('{"id":1,"type":"dance"}', "unknown_verb", "Unknown command type: dance", "dance"),
    "a session that is no text": (
        '{"id":1,"type":"ping","session":7}', "invalid_request", "session must be a string", "ping",
    ),
    "a session that is not there": (
        '{"id":1,"type":"get_state","session":"nobody"}', "not_found", 'no session "nobody"', "get_state",
    ),
    "one of two sessions": (
        '{"id":1,"type":"inspect"}', "invalid_request", 'there are 2 sessions; say which with "session": s, t', "inspect",
    ),
    "another session": (
        '{"id":1,"type":"state","session":"t"}', "invalid_request", 'this is the socket of session "s"', "get_state",
    ),
    "session: the daemon's business": (
        '{"id":1,"type":"list"}', "invalid_request", 'this is the socket of session "s"; the daemon\'s is <daemon>', "list",
    ),
    "session: no message": (
        '{"id":1,"type":"send","message":7}', "invalid_request", "Expected string message or content array", "send",
    ),
    "session: a name that is too long": (
        '{"id":1,"type":"prompt","message":"x","from":"%s"}' % ("x" * 1025), "invalid_request",
        "from is longer than 1024 bytes", "prompt",
    ),
    "session: a stream of what is no prompt of its own": (
        '{"id":1,"type":"steer","message":"x","stream":true}', "invalid_request",
        "only a prompt of its own can be streamed: deliver it as auto, now or queue", "steer",
    ),
    "session: no question": (
        '{"id":1,"type":"question_reply","answers":[]}', "invalid_request", "Error: Expected requestId/request_id",
        "question_reply",
    ),
    "session: an end that is not confirmed": (
        '{"id":1,"type":"shutdown"}', "invalid_request", "Set confirm:true to shutdown this Pi session", "shutdown",
    ),
    "session: a command that is not there": (
        '{"id":1,"type":"prompt","message":"/dance now"}', "not_found",
        "Unknown command: /dance (get_commands lists those that there are)", "prompt",
    ),
    "session: a template that comes to nothing": (
        '{"id":1,"type":"prompt","message":"/empty"}', "bad_request",
        "Slash expansion failed: the template in <prompts>/empty.md comes to an empty text with these arguments", "prompt",
    ),
}


def refusal(code, text, **command):
    return {
        "type": "response", **command, "success": False, "error": text, "code": code,
        "details": {"error": code, "message": text},
    }


@pytest.fixture
def sessions(daemon, model):
    """A daemon with the sessions `s` and `t`."""
    templates = daemon.agent_dir / "prompts"
    templates.mkdir()
    (templates / "empty.md").write_text("$1")
    model.script("hello", "hello")
    for name in ("s", "t"):
        daemon.session(name, "hi").text()
    return daemon


@pytest.mark.parametrize("name", REFUSALS)
def test_the_whole_answer(sessions, model, name):
    line, code, text, command = REFUSALS[name]
    own = name.startswith("session") or name == "another session"
    with Bridge(sessions.session_socket("s") if own else sessions.socket) as client:
        client.send_bytes(line.encode() + b"\n")
        for place, path in {"<daemon>": sessions.socket, "<prompts>": sessions.agent_dir / "prompts"}.items():
            text = text.replace(place, str(path))
        assert bare(client.response(1)) == refusal(code, text, command=command)
        assert client.exchange("ping")["success"], "the connection goes on"
    assert len(model.requests) == 2


def test_a_line_that_is_too_long(sessions):
    with Bridge(sessions.socket) as client:
        client.send_bytes(b'{"id":1,"type":"emit","message":"%s"}\n' % (b"x" * (1 << 20)))
        assert bare(client.response(1)) == refusal("invalid_request", "Input line exceeds 1 MiB")


def test_a_model_whose_key_is_gone(daemon, model):
    model.script("hello")
    daemon.session("s", "hi").text()
    models = daemon.agent_dir / "models.json"
    models.write_text(models.read_text().replace(API_KEY, "$NO_SUCH_VARIABLE"))
    with Bridge(daemon.session_socket("s")) as client:
        refused = client.exchange("prompt", id=1, message="x")
        assert bare(refused) == refusal("model_error", refused["error"], command="prompt")
        assert refused["error"].startswith("No usable credentials for scripted")
