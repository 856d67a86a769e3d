"""pi-bridge against a fake session: subcommands, output, exit codes. What needs a terminal is in test_cli_attach.py."""

import json
import os
import re
import signal
import socket
import subprocess
import threading
import time

import pytest

from support import proc
from support.cli import HEADER, lines, one_line
from support.fake_bridge import PROTOCOL, dead_pid, event, response
from support.waiting import eventually

pytestmark = pytest.mark.any_server

# What is listed.


@pytest.mark.parametrize("arguments", [(), ("--all",)])
def test_an_empty_list(cli, arguments):
    done = cli("list", *arguments)
    assert (done.returncode, done.stdout, done.stderr) == (0, "No active pi session bridges found.\n", "")
    assert json.loads(cli("list", "--json", *arguments).stdout) == []


def test_the_list_is_a_table_of_what_is_registered(cli, new_bridge):
    one = new_bridge("a", sessionName="first", isIdle=None)
    # The test runner and process 1 are alive, whatever their numbers.
    two = new_bridge("b", pid=1, isIdle=False, cwd=None, sessionId="abcdefghijk", model={"provider": "p", "id": "m"})
    header, *rows = lines(cli("list").stdout)
    assert header.split() == [
        "SESSION", "NAME", "STATE", "MODEL", "DOING", "QUEUE", "TOKENS", "COST", "TODAY", "CONTEXT", "SANDBOX", "CWD", "PID",
        "LAST", "ERROR",
    ]
    unknown = ["-", "-", "-", "-", "-"]
    assert [row.split() for row in rows] == [
        ["a", "first", "?", "-", "-", "0", *unknown, "/somewhere", str(os.getpid()), "-"],
        ["abcdefghijk", "-", "running", "p/m", "-", "0", *unknown, "-", "1", "-"],
    ]
    assert [row.split()[-1] for row in lines(cli("list", "--long").stdout)[1:]] == [str(one.path), str(two.path)]
    found = json.loads(cli("list", "--json").stdout)
    assert found[[row["pid"] for row in found].index(1)] == {**two.row, "alive": True, "socketExists": True, "stale": False}


def test_what_is_gone_is_listed_only_on_request(cli, new_bridge):
    new_bridge("dead", pid=dead_pid())
    new_bridge("no-socket", socketPath="/nowhere.sock")
    new_bridge("other", protocol="pi-session-bridge.v2")
    (cli.directory / "instances" / "torn.json").write_text('{"protocol": ')
    (cli.directory / "instances" / "number.json").write_text("5")
    (cli.directory / "instances" / "note.txt").write_text("{}")
    os.mkfifo(cli.directory / "instances" / "pipe.json")
    assert cli("list").stdout == "No active pi session bridges found.\n"
    found = {row["sessionId"]: row for row in json.loads(cli("list", "--all", "--json").stdout)}
    assert set(found) == {"dead", "no-socket", "other"}
    assert all(row["stale"] for row in found.values())
    assert not found["dead"]["alive"] and found["dead"]["socketExists"]
    assert found["no-socket"]["alive"] and not found["no-socket"]["socketExists"]


def test_a_registry_that_cannot_be_read_is_one_line(cli):
    cli.directory.mkdir()
    (cli.directory / "instances").write_text("")
    done = cli("list")
    assert done.returncode == 1 and done.stdout == "" and len(lines(done.stderr)) == 1


def test_where_sessions_are_looked_for(cli, tmp_path, bridge):
    def found(*arguments, **environment):
        return bool(json.loads(cli("list", "--json", *arguments, **environment).stdout))

    assert found()
    assert not found(PI_BRIDGE_DIR=str(tmp_path))
    assert found("--bridge-dir", cli.directory, PI_BRIDGE_DIR=str(tmp_path))
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    cli.directory.rename(temporary / f"pi-session-bridge-{os.getuid()}")
    bridge.row_path = temporary / f"pi-session-bridge-{os.getuid()}" / "instances" / bridge.row_path.name
    bridge.row_path.write_text(json.dumps({**bridge.row, "socketPath": str(bridge.row_path)}))
    for variable in ("TMPDIR", "TMP", "TEMP"):
        assert found(PI_BRIDGE_DIR="", **{variable: f"{temporary}/"})
    assert not found(PI_BRIDGE_DIR="", TMPDIR=str(tmp_path), TMP=str(temporary))


# Which session is meant.


def test_without_a_session(cli):
    for arguments in (["state"], ["send", "x"], ["stream"], ["attach"], ["run", "x"], ["stop"], ["shutdown"]):
        done = cli(*arguments)
        assert (done.returncode, done.stdout) == (1, ""), arguments
        assert done.stderr.startswith("No matching active pi session bridge"), arguments
        assert len(lines(done.stderr)) == 1


def test_with_several_sessions_one_has_to_be_chosen(cli, new_bridge):
    a, b = new_bridge("id-a", sessionName="alpha", cwd="/w/a"), new_bridge("id-b", sessionName="alpha2", cwd="/w/b")
    done = cli("state")
    assert done.returncode == 1
    assert lines(done.stdout)[0].startswith(HEADER) and len(lines(done.stdout)) == 3
    assert done.stderr.startswith("Multiple matching pi session bridges")
    assert len(json.loads(cli("state", "--json").stdout)) == 2
    for arguments, chosen in [
        (["--session", "id-a"], a), (["--name", "alpha2"], b), (["--name", "alpha"], a), (["--cwd", "/w/b"], b),
        (["--socket", b.path], b), (["--pid", os.getpid(), "--session", "id-b"], b), (["alpha2"], b), (["id-a"], a),
    ]:
        before = len(chosen.requests)
        assert cli("state", *arguments).returncode == 0, arguments
        assert [r["type"] for r in chosen.requests[before:]] == ["get_state"], arguments
    assert cli("state", "--pid", "1").stderr.startswith("No matching")
    for arguments in (["--name", "ALPHA"], ["--session", "id-a", "--name", "alpha2"], ["alpha3"]):
        assert cli("state", *arguments).stderr.startswith("No such session: "), arguments
    assert "; did you mean alpha2?" in cli("state", "alpah2").stderr


def test_a_session_file_is_a_part_of_the_session_too(cli, new_bridge):
    new_bridge("id-a", sessionFile="/files/delta.jsonl")
    new_bridge("id-b")
    assert cli("state", "--session", "delta").returncode == 0


def test_what_is_gone_can_be_chosen_on_request(cli, new_bridge):
    new_bridge("id-a", pid=dead_pid())
    assert cli("state").returncode == 1
    assert cli("state", "--all").returncode == 0


def test_a_daemons_own_row_is_no_session(cli, new_bridge):
    daemon = new_bridge("daemon", role="daemon", sessionId=None)
    assert cli("state").returncode == 0 and daemon.requests[-1]["type"] == "get_state"
    session = new_bridge("one", daemonSocketPath=str(daemon.path))
    assert cli("state").returncode == 0 and session.requests[-1]["type"] == "get_state"


def test_a_session_at_its_daemons_socket_is_named_in_the_request(cli, new_bridge):
    daemon = new_bridge("one", daemonSocketPath=str(cli.directory / "one.sock"))
    assert cli("state").returncode == 0
    assert daemon.requests[-1]["session"] == "one"


def test_a_run_without_a_row_is_found_by_its_id(cli, new_bridge):
    daemon = new_bridge("daemon", role="daemon", sessionId=None)
    daemon.on("get_state", lambda r: [response(r, {}) if r["session"] == "run-17" else response(r, error="no session")])
    assert cli("abort", "run-17").returncode == 0
    assert daemon.requests[-1]["type"] == "abort" and daemon.requests[-1]["session"] == "run-17"
    done = cli("abort", "run-1")
    assert done.returncode == 1 and done.stderr.startswith("No such session: run-1")


# Requests and their output.


SIMPLE = [
    (["state"], {"type": "get_state"}),
    (["commands"], {"type": "get_commands"}),
    (["history"], {"type": "history"}),
    (["history", "20"], {"type": "history", "limit": 20}),
    (["send", "two", "words"], {"type": "prompt", "message": "two words"}),
    (["send", "--auto", "x"], {"type": "prompt", "message": "x", "deliverAs": "auto"}),
    (["send", "x", "--steer"], {"type": "prompt", "message": "x", "deliverAs": "steer"}),
    (["send", "--follow-up", "x"], {"type": "prompt", "message": "x", "deliverAs": "followUp"}),
    (["send", "--followUp", "x"], {"type": "prompt", "message": "x", "deliverAs": "followUp"}),
    (["send", "--now", "x"], {"type": "prompt", "message": "x", "deliverAs": "now"}),
    (["send", "--", "--now", "--", "x"], {"type": "prompt", "message": "--now -- x"}),
    (["steer", "x"], {"type": "steer", "message": "x"}),
    (["steer", "--now", "x"], {"type": "steer", "message": "x", "deliverAs": "now"}),
    (["follow-up", "x"], {"type": "follow_up", "message": "x"}),
    (["followUp", "x"], {"type": "follow_up", "message": "x"}),
    (["questions"], {"type": "questions"}),
    (["question-list"], {"type": "questions"}),
    (["answer", "--request-id", "q", "--answers", '[["é"]]'], {"type": "answer", "requestId": "q", "answers": [["é"]]}),
    (["reply", "--request-id", "q", "[[]]"], {"type": "answer", "requestId": "q", "answers": [[]]}),
    (["reject", "--request-id", "q"], {"type": "reject", "requestId": "q"}),
    (["emit"], {"type": "emit", "message": "test"}),
    (["emit", "a", "b"], {"type": "emit", "message": "a b"}),
    (["request", '{"type":"ping","x":[1]}'], {"type": "ping", "x": [1]}),
    (["raw", '{"type":"ping"}'], {"type": "ping"}),
    (["abort"], {"type": "abort"}),
]


@pytest.mark.parametrize(("arguments", "expected"), SIMPLE, ids=lambda value: " ".join(value) if isinstance(value, list) else "")
def test_a_subcommand_is_one_request(cli, bridge, arguments, expected):
    bridge.on(expected["type"], lambda request: {"text": "é", "empty": [], "none": None})
    done = cli(*arguments)
    assert done.returncode == 0 and done.stderr == ""
    (request,) = bridge.requests
    assert re.fullmatch(r"\d+-[0-9a-f]+", request.pop("id"))
    assert request == expected
    answer = response({"id": json.loads(bridge.lines[0])["id"], **expected}, {"text": "é", "empty": [], "none": None})
    # Pretty-printed, with two spaces, in the order in which it came.
    assert done.stdout == json.dumps(answer, indent=2, ensure_ascii=False) + "\n"
    # It is JSON anyway.
    again = cli(arguments[0], "--json", *arguments[1:])
    assert {**json.loads(again.stdout), "id": answer["id"]} == answer


def test_c1_everything_about_history_is_forwarded_once(cli, bridge):
    arguments = ["--raw", "--event", "message_end", "--since", "2026-01-01T00:00:00.000Z", "--max-bytes", "4096"]
    assert cli("history", "7", *arguments).returncode == 0
    (request,) = bridge.requests
    assert isinstance(request.pop("id"), str)
    assert request == {
        "type": "history", "limit": 7, "raw": True, "event": "message_end", "since": "2026-01-01T00:00:00.000Z",
        "maxBytes": 4096,
    }


@pytest.mark.parametrize(
    ("arguments", "keys"),
    [
        (["--verbose"], {"raw"}),  # C2
        (["-v"], {"raw"}),
        (["5"], {"limit"}),  # C3
        (["--max-bytes", "lots"], set()),  # C4
        (["--max-bytes", "-1"], set()),
        (["many"], set()),
        (["20abc"], {"limit"}),
    ],
)
def test_c2_to_c4_absent_fields_are_absent(cli, bridge, arguments, keys):
    assert cli("history", *arguments).returncode == 0
    assert set(bridge.requests[0]) == {"id", "type"} | keys
    assert bridge.requests[0].get("raw", True) is True


def test_a_request_from_standard_input(cli, bridge):
    assert cli("request", "-", input='{"type": "ping", "id": {"a": 1}}\n').returncode == 0
    assert bridge.requests[0] == {"type": "ping", "id": {"a": 1}}
    assert cli("send", "-", input="a long\nmessage\n").returncode == 0
    assert bridge.requests[1]["message"] == "a long\nmessage"


@pytest.mark.parametrize("given", ["null", '""', "0", "false"])
def test_an_empty_id_is_replaced(cli, bridge, given):
    assert cli("request", f'{{"type":"ping","id":{given}}}').returncode == 0
    assert bridge.requests[0]["id"]


def test_a_refusal_is_printed_and_fails(cli, bridge):
    bridge.on("prompt", lambda request: [response(request, error="no model")])
    done = cli("send", "x")
    assert done.returncode == 1 and done.stderr == ""
    assert json.loads(done.stdout)["error"] == "no model"


def test_what_is_no_response_is_passed_over(cli, bridge):
    bridge.on("get_state", lambda request: [
        event("agent_start"), b"\n", b"not json\n", b"[1]\n", response({"type": "x", "id": "other"}, {"wrong": 1}),
        {"type": "bridge_error", "error": "x"}, json.dumps(response(request, {"right": 1})).encode() + b"\r\n",
    ])
    done = cli("state")
    assert done.returncode == 0 and json.loads(done.stdout)["data"] == {"right": 1}


def test_a_response_may_come_in_pieces_and_be_long(cli, bridge):
    text = "é" * 6_000_000

    def answer(request):
        record = json.dumps(response(request, {"text": text}), ensure_ascii=False).encode()
        return [record[:1000001], record[1000001:], b"\n"]

    bridge.on("history", answer)
    assert json.loads(cli("history").stdout)["data"]["text"] == text


def test_a_failure_without_an_id_is_ours(cli, bridge):
    failure = {"type": "response", "success": False, "error": "Input line exceeds 1 MiB"}
    bridge.on("prompt", lambda request: [failure])
    done = cli("send", "x")
    assert done.returncode == 1 and json.loads(done.stdout) == failure


# What goes wrong on this side.


def test_connection_errors_are_one_clear_line(cli, bridge, tmp_path):
    assert "no such socket" in one_line(cli("state", "--socket", tmp_path / "none.sock"))
    with socket.socket(socket.AF_UNIX) as closed:
        closed.bind(str(tmp_path / "closed.sock"))
    assert "nobody listens" in one_line(cli("state", "--socket", tmp_path / "closed.sock"))
    assert "Cannot connect" in one_line(cli("state", "--socket", tmp_path / ("x" * 200)))
    bridge.on("get_state", lambda request: [])
    process = cli.start("state")
    bridge.wait_request("get_state")
    bridge.drop_clients()
    _, stderr = process.communicate(timeout=20)
    assert process.returncode == 1 and stderr.startswith(b"Socket closed before response")


def test_a_timeout_ends_the_wait_for_an_answer(cli, bridge):
    bridge.on("get_state", lambda request: [])
    begin = time.monotonic()
    assert "no answer in time" in one_line(cli("state", "--timeout", "0.3"))
    assert time.monotonic() - begin >= 0.3


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["nonsense"], "Unknown subcommand: nonsense"),
        (["state", "--pid"], "Missing value for --pid"),
        (["state", "--pid", ""], "Missing value for --pid"),
        (["state", "--socket"], "Missing value for --socket"),
        (["answer", "--request-id"], "Missing value for --request-id"),
        (["state", "--nonsense"], "Unknown option for state: --nonsense"),
        (["state", "a", "b"], "Unexpected argument for state: b"),
        (["state", "--timeout", "soon"], "--timeout"),
        (["send"], "Missing message"),
        (["steer", " "], "Missing message"),
        (["answer", "[[]]"], "Missing --request-id"),
        (["answer", "--request-id", "q"], "--answers"),
        (["answer", "--request-id", "q", "--answers", "[["], "no JSON"),
        (["reject"], "Missing --request-id"),
        (["request"], "Missing request"),
        (["request", "{"], "no JSON"),
        (["request", "{}"], "type"),
        (["request", '{"type": 5}'], "type"),
        (["run"], "Missing message"),
        (["session"], "Missing session id"),
        (["completions"], "bash, zsh or fish"),
        (["completions", "tcsh"], "bash, zsh or fish"),
        (["help", "nonsense"], "Unknown subcommand"),
        (["attach", "--json"], "Unknown option for attach: --json"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_usage_errors(cli, bridge, arguments, part):
    assert part in one_line(cli(*arguments))
    assert bridge.requests == []


def test_help(cli):
    usage = cli("--help")
    assert usage.returncode == 0 and usage.stderr == ""
    for arguments in (["help"], ["-h"]):
        assert cli(*arguments).stdout == usage.stdout
    nothing = cli()
    assert (nothing.returncode, nothing.stdout, nothing.stderr) == (1, "", usage.stdout)
    verbs = re.findall(r"^  ([a-z-]+)", usage.stdout, re.MULTILINE)
    assert {"list", "send", "attach", "run", "shutdown", "completions"} < set(verbs)
    for verb in verbs:
        own = cli(verb, "--help")
        assert own.returncode == 0 and own.stderr == ""
        assert own.stdout.startswith(f"pi-bridge {verb}: ")
        assert cli("help", verb).stdout == own.stdout
    assert re.fullmatch(r"pi-bridge \d+\.\d+\.\d+\n", cli("--version").stdout)


# Streaming.


def test_stream_prints_every_line_as_it_came(cli, bridge):
    early = b'{"type" : "event","event":"early"}\r\n'
    bridge.on("subscribe", lambda request: [early, response(request, {"enabled": True})])
    process = cli.start("stream")
    subscribe = bridge.wait_request("subscribe")
    assert subscribe.pop("id") and subscribe == {"type": "subscribe", "enabled": True}
    bridge.push(b'{"type" : "event","event":"x"}\r\n', b"not json\n")
    assert json.loads(process.stdout.readline())["type"] == "bridge_hello"
    assert process.stdout.readline() == early
    assert json.loads(process.stdout.readline())["type"] == "response"
    assert process.stdout.readline() == b'{"type" : "event","event":"x"}\r\n'
    assert process.stdout.readline() == b"not json\n"
    bridge.push(b"last, without an end")
    bridge.drop_clients()
    stdout, stderr = process.communicate(timeout=20)
    assert stdout == b"last, without an end"
    assert process.returncode == 1 and lines(stderr.decode())[0] == "bridge-stream-closed"


def test_stream_at_the_daemons_socket_ends_with_the_session(cli, new_bridge):
    daemon = new_bridge("one", daemonSocketPath=str(cli.directory / "one.sock"))
    process = cli.start("stream")
    assert daemon.wait_request("subscribe")["session"] == "one"
    other, own = ({**event("bridge_stop", reason="stopped"), "session": name} for name in ("two", "one"))
    daemon.push(other, own, event("later"))
    stdout, stderr = process.communicate(timeout=20)
    assert [json.loads(line) for line in stdout.splitlines()[2:4]] == [other, own]
    assert process.returncode == 1 and stderr.startswith(b"bridge-stream-closed")


def test_stream_that_is_refused(cli, bridge):
    bridge.on("subscribe", lambda request: [response(request, error="which session?")])
    done = cli("stream")
    assert done.returncode == 1 and lines(done.stderr) == ["which session?"]
    assert json.loads(lines(done.stdout)[-1])["success"] is False


def test_n30_a_blocked_reader_is_no_loss(cli, bridge):
    """What nobody reads waits at the session, and arrives whole once it is read."""
    reader, writer = os.pipe()
    process = cli.start("stream", stdout=writer)
    os.close(writer)
    bridge.wait_request("subscribe")
    line = b'{"type":"event","event":"x","data":"' + b"y" * 1000 + b'"}\n'
    count = 16 * 1024 * 1024 // len(line)
    client = bridge.clients[0]
    sent = []

    def send():
        for _ in range(count):
            if not client.send(line):
                return
            sent.append(1)
        client.close()

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    # It stops where pipe, client and socket are full: far more than half is still at the session.
    before = None

    def stuck():
        nonlocal before
        before, last = len(sent), before
        time.sleep(0.2)
        return before and before == last == len(sent)

    eventually(stuck, "the session cannot send any more")
    assert len(sent) * len(line) < 8 * 1024 * 1024
    assert proc.rss(process.pid) < 64 * 1024 * 1024
    with open(reader, "rb") as pipe:
        received = pipe.read()
    assert received.count(line) == count
    assert process.wait(20) == 1 and process.stderr.read().startswith(b"bridge-stream-closed\n")


def test_a_closed_pipe_is_no_error(cli, bridge):
    """Also when no event comes after the one that was wanted."""
    done = cli.shell("set -o pipefail; pi-bridge stream | head -1; echo ${PIPESTATUS[*]}")
    hello, codes = lines(done.stdout)
    assert json.loads(hello)["protocol"] == PROTOCOL
    assert codes == "0 0" and done.stderr == ""
    bridge.on("history", lambda request: {"text": "y" * 1_000_000})
    done = cli.shell("set -o pipefail; pi-bridge history | head -1; echo ${PIPESTATUS[*]}")
    assert done.stdout == "{\n0 0\n" and done.stderr == ""
    for command in ("list", "--help", "completions bash"):
        done = cli.shell(f"set -o pipefail; pi-bridge {command} | true; echo ${{PIPESTATUS[*]}}")
        assert done.stdout == "0 0\n" and done.stderr == ""


# Completions.


def completed(cli, words):
    """What bash offers for the last of these words."""
    quoted = " ".join(f"'{word}'" for word in words)
    script = f"source <(pi-bridge completions bash); COMP_WORDS=(pi-bridge {quoted}); COMP_CWORD={len(words)}; _pi_bridge; "
    done = cli.shell(script + 'printf "%s\\n" "${COMPREPLY[@]}"')
    assert done.returncode == 0 and done.stderr == ""
    return set(done.stdout.split())


def test_bash_completes(cli, new_bridge):
    new_bridge("abcdefgh-1", sessionName="alpha")
    new_bridge("stuvwxyz-2")
    (cli.cwd / "folder").mkdir()
    assert {"list", "attach", "follow-up", "followUp", "raw"} < completed(cli, [""])
    assert completed(cli, ["st"]) == {"state", "stream", "steer", "stop"}
    assert {"--pid", "--json", "--timeout"} < completed(cli, ["state", "--"])
    assert completed(cli, ["state", "x", "--se"]) == {"--session"}
    assert "--model" in completed(cli, ["run", "--m"]) and "--model" not in completed(cli, ["state", "--m"])
    assert completed(cli, ["state", "--session", ""]) == {"abcdefgh-1", "stuvwxyz-2"}
    assert completed(cli, ["attach", "ab"]) == {"abcdefgh-1"}
    assert completed(cli, ["state", "--name", ""]) == {"alpha"}
    assert completed(cli, ["state", "--pid", ""]) == {str(os.getpid())}
    assert completed(cli, ["run", "--thinking", "m"]) == {"minimal", "medium", "max"}
    assert completed(cli, ["completions", ""]) == {"bash", "zsh", "fish"}
    assert completed(cli, ["run", "--cwd", "fol"]) == {"folder"}
    assert completed(cli, ["history", "--since", "x"]) == set()


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_take_their_script(cli, shell):
    script = cli("completions", shell)
    assert script.returncode == 0 and "attach" in script.stdout
    try:
        subprocess.run([shell, "-c", "true"], check=True)
    except FileNotFoundError:
        pytest.skip(f"no {shell} here")
    path = cli.cwd / "script"
    path.write_text(script.stdout)
    load = "autoload -U compinit; compinit -u; " if shell == "zsh" else ""
    done = subprocess.run([shell, "-c", f"{load}source {path}"], capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_it_ends_by_a_signal_like_any_program(cli, bridge):
    process = cli.start("stream")
    bridge.wait_request("subscribe")
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == -signal.SIGINT
