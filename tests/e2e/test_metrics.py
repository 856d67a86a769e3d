"""Figures for operators: over HTTP, in statistics, and by pi-bridge; and whether the daemon can work."""

import json
import re
import socket
import urllib.error
import urllib.request

import pytest

from support.daemon import API_KEY
from support.model_script import Failure, ToolCall
from support.waiting import DEADLINE, eventually
from test_shutdown_answers import client


def address(daemon):
    found = re.search(r"http://(\S+):(\d+)/metrics", daemon.wait_log("metrics are served on"))
    return found[1], int(found[2])


def get(daemon, path, method="GET"):
    """Status and text of an answer over HTTP."""
    host, port = address(daemon)
    request = urllib.request.Request(f"http://{host}:{port}{path}", method=method)
    try:
        with urllib.request.urlopen(request, timeout=DEADLINE) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refused:
        return refused.code, refused.read().decode()


def samples(text):
    lines = [line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#")]
    assert len(lines) == len({name for name, _ in lines}), "a sample is there twice"
    return {name: float(value) for name, value in lines}


def figures(daemon):
    status, text = get(daemon, "/metrics")
    assert status == 200
    return samples(text)


def shown(name, **labels):
    return name + "{" + ",".join(f'{key}="{value}"' for key, value in labels.items()) + "}"


def operation(suffix, **labels):
    return shown(f"gen_ai_client_operation_duration_seconds_{suffix}", gen_ai_operation_name=labels.pop("operation"), **labels)


CHAT = {"gen_ai_provider_name": "scripted", "gen_ai_request_model": "one"}


@pytest.fixture
def watched(new_daemon):
    daemon = new_daemon()
    daemon.config["metricsListen"] = "127.0.0.1:0"
    return daemon


@pytest.mark.any_server
@pytest.mark.parametrize("audit", [False, True])
def test_a_request_beyond_a_budget_is_counted(watched, model, audit):
    watched.config["audit"] = audit
    watched.config["budgets"] = {"session": {"requests": 1}}
    watched.start()
    model.script("done")
    watched.session("s", "go").text()
    over = shown("pi_exec_gate_verdicts_total", verdict="over_budget")
    assert figures(watched)[over] == 0
    assert watched.prompt("s", "go").failure().word == "budget_exceeded"
    assert figures(watched)[over] == 1


@pytest.mark.any_server
def test_what_is_done_is_counted(watched, model):
    watched.config["rules"] = [{"tool": "bash", "match": "rm*", "do": "deny"}]
    watched.config["budgets"] = {"day": {"tokens": 1_000_000}}
    watched.start()
    model.script(
        Failure(503),
        [
            ToolCall("bash", {"command": "true"}, id="a"),
            ToolCall("bash", {"command": "exit 3"}, id="b"),
            ToolCall("bash", {"command": "rm x"}, id="c"),
            ToolCall("no_such_tool", {}, id="d"),
        ],
        "done",
    )
    watched.session("s", "go").text()
    settled = operation("count", operation="invoke_agent", reason="final")
    found = eventually(lambda: (now := figures(watched)).get(settled) == 1 and now, "the prompt is counted")
    for name, value in {
        operation("count", operation="chat", **CHAT): 2,
        operation("count", operation="chat", **CHAT, error_type="error"): 1,
        operation("count", operation="execute_tool", gen_ai_tool_name="bash"): 1,
        operation("count", operation="execute_tool", gen_ai_tool_name="bash", error_type="error"): 1,
        shown("gen_ai_client_operation_time_to_first_chunk_seconds_count", gen_ai_operation_name="chat", **CHAT): 2,
        "pi_exec_model_retries_total": 1,
        shown("pi_exec_gate_verdicts_total", verdict="allowed"): 2,
        shown("pi_exec_gate_verdicts_total", verdict="denied"): 1,
        shown("pi_exec_sessions", kind="session", state="idle"): 1,
        shown("pi_exec_sessions", kind="run", state="running"): 0,
        shown("pi_exec_budget_day", unit="tokens", what="allowed"): 1_000_000,
        shown("pi_exec_dropped_total", what="reply"): 0,
        shown("pi_exec_dropped_total", what="event"): 0,
        shown("pi_exec_dropped_total", what="notice"): 0,
        shown("pi_exec_dropped_total", what="socket_client"): 0,
        "pi_exec_nats_connected": 1,
        "pi_exec_prompts_running": 0,
    }.items():
        assert found.get(name) == value, (name, found)
    assert not any("no_such_tool" in name for name in found)
    usage = shown("gen_ai_client_token_usage_sum", **CHAT, gen_ai_token_type="input")
    assert found[usage] == found[shown("pi_exec_model_tokens_total", **CHAT, kind="input")] > 0
    assert found["pi_exec_disk_wait_seconds_count"] >= 1
    assert found[shown("pi_exec_budget_day", unit="tokens", what="used")] > 0
    assert [name for name in found if name.startswith("pi_exec_info{") and f'owner="{watched.owner}"' in name]
    # The same over the other ways, but for what goes on changing.
    cli = client(watched)
    printed = cli("metrics")
    assert printed.returncode == 0, printed.stderr
    told = json.loads(cli("metrics", "--json").stdout)["data"]["metrics"]
    # The intake answers before the session does.
    stats = watched.bus.ask_json("$SRV.STATS.pi-exec")["endpoints"][0]["data"]["metrics"]
    steady = {name: value for name, value in found.items() if not name.startswith("process_") and "_bucket" not in name}
    for other in (samples(printed.stdout), told, stats):
        assert {name: other.get(name) for name in steady} == steady
    assert not any("_bucket" in name for name in stats)
    for text in (printed.stdout, json.dumps(stats)):
        assert API_KEY not in text


@pytest.mark.any_server
def test_it_says_whether_it_lives_and_can_work(watched):
    watched.start()
    cli = client(watched)
    assert get(watched, "/healthz") == (200, "ok\n")
    assert get(watched, "/readyz") == (200, "ready\n")
    assert get(watched, "/readyz", "HEAD") == (200, "")
    assert get(watched, "/")[0] == 404
    assert get(watched, "/metrics", "POST")[0] == 405
    assert cli("drain").returncode == 0
    assert get(watched, "/readyz") == (503, "the daemon is draining\n")
    assert get(watched, "/healthz") == (200, "ok\n")
    assert figures(watched)["pi_exec_draining"] == 1
    assert cli("undrain").returncode == 0
    assert get(watched, "/readyz") == (200, "ready\n")


@pytest.mark.any_server
def test_without_a_key_or_a_disk_it_cannot_work(watched):
    watched.config |= {"defaultModel": "anthropic/claude-sonnet-4-5", "sessionDir": "/proc/nowhere"}
    watched.start()
    status, text = get(watched, "/readyz")
    assert status == 503
    assert re.search(r"^disk: /proc/nowhere", text, re.MULTILINE) and re.search(r"^model: .*key", text, re.MULTILINE), text
    assert get(watched, "/healthz") == (200, "ok\n")


def test_without_nats_it_cannot_work(new_daemon, own_server, own_bus):
    server = own_server()
    daemon = new_daemon(server.url, own_bus(server.url))
    daemon.config["metricsListen"] = "127.0.0.1:0"
    daemon.start()
    assert get(daemon, "/readyz") == (200, "ready\n")
    server.stop()
    eventually(lambda: get(daemon, "/readyz") == (503, "NATS: not connected\n"), "the connection is missed")
    assert figures(daemon)["pi_exec_nats_connected"] == 0


@pytest.mark.any_server
def test_clients_that_mean_no_good_harm_nobody(watched, model):
    watched.start()
    where = address(watched)
    idle = [socket.create_connection(where, DEADLINE) for _ in range(60)]
    for bytes_ in (b"GET /metrics HTTP/1.1\r\n", b"\x16\x03\x01\x00", b"GET " + b"x" * 100_000, b"\r\n" * 10_000):
        with socket.create_connection(where, DEADLINE) as rude:
            try:
                rude.sendall(bytes_)
            except OSError:
                pass  # It has been answered and closed already.
    assert get(watched, "/healthz") == (200, "ok\n")
    assert figures(watched)["process_open_fds"] < 200
    for one in idle:
        one.close()
    model.script("hello")
    assert watched.session("s", "go").text() == "hello"


@pytest.mark.any_server
def test_an_address_that_is_in_use_is_told_at_the_start(watched, new_daemon):
    watched.start()
    other = new_daemon()
    other.config["metricsListen"] = "127.0.0.1:%d" % address(watched)[1]
    done = other.run_to_end()
    assert done.returncode == 1 and "metricsListen: cannot listen on 127.0.0.1" in done.stderr, done.stderr
    other.config["metricsListen"] = "localhost"
    done = other.run_to_end()
    assert done.returncode == 78 and '"metricsListen": "localhost" is no IP address with a port' in done.stderr, done.stderr


@pytest.mark.any_server
def test_the_process_that_takes_over_listens_there_as_well(watched):
    watched.start()
    port = address(watched)[1]
    watched.config["metricsListen"] = f"127.0.0.1:{port}"
    watched.replace()
    watched.wait_log("metrics are served on")
    assert get(watched, "/healthz") == (200, "ok\n")
