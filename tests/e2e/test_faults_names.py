"""Names of tools that no provider takes back: the model gets an error, or what it meant, and the conversation goes on."""

import signal

import pytest

from support import provider_rules
from support.model_script import ToolCall
from support.strict_model import spec_of, spread, strictly

pytestmark = pytest.mark.any_server

APIS = provider_rules.APIS
# Names that mean no tool that there is.
UNKNOWN = ["", " ", "no_such_tool", "x" * 65, "x" * 500, "bäsh", "名前", "rm -rf", "a:b:c", "tool\nname", "💥", "bash;ls"]
# Names that mean bash, as models write it.
MEANT = [
    "Bash", "BASH", "functions.bash", "functions:bash", "default_api.bash", "default_api:bash", " bash ", "tools.bash", "bash\n",
    "bash<|channel|>commentary", "bash<|channel|>json", "<|tool|>bash", "bash</s>",
]


def calling(name):
    def answer(request):
        if request.prompts[-1].endswith("call") and not request.tool_results:
            return ToolCall(name, {"command": "echo a >> ran.txt"})
        return f"done: {request.prompts[-1][-10:]}"

    return answer


@pytest.mark.parametrize(("name", "api"), spread(UNKNOWN, ["", "x" * 500]))
def test_a_tool_that_there_is_not(daemon, model, name, api):
    refused = []
    model.answer(strictly(calling(name), refused))
    assert daemon.session("s", "call", model=spec_of(api)).text() == "done: call"
    assert daemon.prompt("s", "and then").text() == "done: and then"
    assert refused == []
    (text, is_error), = model.requests[-1].tool_results
    assert text and is_error in (True, None)
    assert not (daemon.cwd / "ran.txt").exists()


@pytest.mark.parametrize(("name", "api"), spread(MEANT, ["functions.bash"]))
def test_a_name_in_the_models_own_form(daemon, model, name, api):
    refused = []
    model.answer(strictly(calling(name), refused))
    assert daemon.session("s", "call", model=spec_of(api)).text() == "done: call"
    assert daemon.prompt("s", "and then").text() == "done: and then"
    assert refused == []
    assert (daemon.cwd / "ran.txt").read_text() == "a\n"


@pytest.mark.parametrize("api", APIS)
def test_a_name_that_was_stored_before(daemon, model, api):
    """By an earlier version, or by PI: the file holds the name as it came."""
    model.answer(strictly(calling("placeholder_tool")))
    assert daemon.session("s", "call", model=spec_of(api)).text() == "done: call"
    daemon.signal(signal.SIGTERM)
    daemon.wait_exit()
    (path,) = daemon.session_files()
    for odd in ["", "functions.bash", "ba sh", "名" * 80]:
        text = path.read_text()
        assert "placeholder_tool" in text
        path.write_text(text.replace("placeholder_tool", odd))
        refused = []
        model.answer(strictly(calling("-"), refused))
        daemon.start()
        assert daemon.prompt("s", "and then").text() == "done: and then"
        assert refused == []
        daemon.signal(signal.SIGTERM)
        daemon.wait_exit()
        path.write_text(text)


@pytest.mark.parametrize("api", APIS)
def test_ids_that_come_again(daemon, model, api):
    """A server that counts the ids of calls anew in every answer."""
    refused = []
    numbers = iter(range(100))

    def answer(request):
        if len(request.tool_results) < 3:
            return [ToolCall("bash", {"command": f"echo {next(numbers)} >> ran.txt"}, id="call_0")]
        return "done"

    model.answer(strictly(answer, refused))
    assert daemon.session("s", "go", model=spec_of(api)).text() == "done"
    assert refused == []
    assert (daemon.cwd / "ran.txt").read_text().split() == ["0", "1", "2"]
    assert daemon.prompt("s", "and then").text() == "done"
    assert refused == []
