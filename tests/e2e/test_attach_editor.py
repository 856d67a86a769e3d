"""pi-bridge attach in a terminal that can: the line editor and the output above it, compared as the screen shows them."""

import json
import signal

import pytest

from support.attached import answer, delta, fake_session, part, question, said
from support.fake_bridge import event, response
from support.waiting import eventually

pytestmark = pytest.mark.any_server

HEADER = "-- session demo in /w, demo-model, idle (/help)"


@pytest.fixture
def session(bridge):
    return fake_session(bridge)


@pytest.fixture
def attached(cli, session):
    """Attaches once the session is as the test wants it; the screen shows its header and the sign to type."""

    def attach(*arguments, **options):
        terminal = cli.terminal("attach", *arguments, **{"columns": 60, "rows": 12, **options})
        terminal.await_screen(lambda rows: rows and rows[-1].startswith(">"), "the sign to type")
        return terminal

    return attach


def sees(terminal, *rows):
    """The screen shows exactly these rows, apart from the header and from the line that moves, of which the begin counts."""
    def same(shown):
        shown = [row for row in shown if row != HEADER]
        return len(shown) == len(rows) and all(
            found.startswith(row[:-3]) if row.endswith("...") else found == row for found, row in zip(shown, rows, strict=True)
        )
    terminal.await_screen(same, f"exactly {rows}")


def moving(text):
    """A row that begins with the wheel, whatever it shows."""
    return rf"^[-|/\\\\] {text}"


def sent(session, number=1):
    return session.wait_request("prompt", number)["message"]


def test_a_line_is_edited_and_found_again(session, attached):
    terminal = attached()
    terminal.press("hällo wörld".encode() + b"\x17" + b"there\x01say \x05\x19!")
    sees(terminal, "> say hällo therewörld!")
    assert terminal.cursor == (1, len("> say hällo therewörld!"))
    terminal.press(b"\r")
    assert sent(session) == "say hällo therewörld!"
    terminal.press(b"\x1b[A\x7f?\r")
    assert sent(session, 2) == "say hällo therewörld?"
    terminal.press(b"\x12ld!")
    terminal.await_row(r"search \"ld!\"\) say hällo therewörld!")
    terminal.press(b"\r")
    assert sent(session, 3) == "say hällo therewörld!"


def test_what_was_sent_before_is_found_after_attaching_again(session, attached):
    session.past = [said("user", "an old prompt"), answer("an old answer")]
    terminal = attached()
    terminal.press(b"\x1b[A")
    terminal.await_row("^> an old prompt$")
    terminal.press(b" again\r")
    assert sent(session) == "an old prompt again"


def test_a_pasted_text_is_one_message(session, attached):
    terminal = attached()
    assert "\x1b[?2004h" in terminal.text
    terminal.paste("one\ntwo\nthree")
    sees(terminal, "> one", "two", "three")
    assert session.requests[-1]["type"] != "prompt"
    terminal.press(b"\r")
    assert sent(session) == "one\ntwo\nthree"
    # A terminal that does not say what is pasted sends it faster than anybody types.
    terminal.press(b"four\nfive\n")
    assert sent(session, 2) == "four\nfive"
    terminal.press(b"six\x1b\rseven\r")
    assert sent(session, 3) == "six\nseven"


def test_a_line_has_no_limit_that_people_meet(session, attached):
    terminal = attached()
    text = "0123456789" * 600
    terminal.type(text)
    assert sent(session) == text


def test_output_appears_above_what_is_typed(session, attached):
    terminal = attached()
    terminal.press(b"half a th")
    session.push(event("agent_start"), delta("First line\nand a second one that is so long that the terminal has to "))
    sees(
        terminal, "First line", "and a second one that is so long that the terminal has to", "...", "> half a th",
    )
    terminal.press(b"ought")
    session.push(delta("wrap it. "), delta("**Done** with `code`.\n\n- a\n- b\n"), answer(
        "First line\nand a second one that is so long that the terminal has to wrap it. **Done** with `code`.\n\n- a\n- b\n"
    ), event("agent_end", messages=[]))
    sees(
        terminal, "First line", "and a second one that is so long that the terminal has to wr", "ap it. Done with code.", "",
        "- a", "- b", "-- 120 in, 30 out, $0.0042 (since attaching: 120 in, 30 out,", " $0.0042)", "> half a thought",
    )
    assert terminal.cursor[1] == len("> half a thought")
    bold = next(row for row in range(12) if "Done" in terminal.model.display[row])
    assert terminal.model.buffer[bold][terminal.model.display[bold].index("Done")].bold
    assert terminal.model.buffer[bold][terminal.model.display[bold].index("code")].fg == "cyan"


def test_what_scrolls_away_is_whole(session, attached):
    terminal = attached()
    lines = [f"line {number} " + "x" * (number % 70) for number in range(80)]
    session.push(event("agent_start"), *(delta(line + "\n") for line in lines))
    terminal.await_row("^line 79 x")
    text = "".join(terminal.scrolled)
    assert all(line.strip() in text for line in lines)
    assert sum("answering" in row for row in terminal.scrolled) == 1


def test_something_moves_until_the_first_word(session, attached):
    terminal = attached()
    terminal.type("hello")
    first = terminal.await_row(moving("waiting for the model, 0 s")).group()
    terminal.await_screen(lambda rows: not any(first in row for row in rows), "it moves")
    session.push(event("agent_start"), delta("hm", "thinking_delta"))
    terminal.await_row(moving("thinking"))
    session.push(event("tool_execution_start", toolCallId="t", toolName="bash", args={"command": "cargo test"}))
    terminal.await_row(moving(r"\[bash\] cargo test, 1 s"))
    session.push(event("tool_execution_end", toolCallId="t", toolName="bash", isError=False, durationMs=1500))
    session.push(event("auto_retry_start", attempt=2, maxAttempts=5, delayMs=9000, errorMessage="overloaded"))
    terminal.await_row(moving(r'retry 2 of 5 after "overloaded", in \d s'))
    session.push(event("compaction_start", reason="threshold"))
    terminal.await_row(moving("making the context smaller"))
    session.push(event("compaction_end", result={}), event("agent_settled"))
    terminal.await_screen(lambda rows: not any("smaller, " in row for row in rows), "nothing goes on")


def test_tools_show_both_ends_of_what_they_gave_back(session, attached):
    terminal = attached(rows=30)
    text = "".join(f"row {number}\n" for number in range(1, 31))
    result = {"content": [{"type": "text", "text": text}]}
    session.push(event("tool_execution_start", toolCallId="t", toolName="bash", args={"command": "seq"}))
    session.push(event("tool_execution_end", toolCallId="t", toolName="bash", isError=True, durationMs=5, result=result))
    sees(
        terminal, "[bash] seq -> failed (0.0 s)", "    row 1", "    row 2", "    row 3", "    ... 24 more lines (/output 1)",
        "    row 28", "    row 29", "    row 30", "...", ">",
    )
    terminal.type("/output 1")
    terminal.await_row("^row 15$")
    diff = {"diff": " 1 same\n-2 old\n+2 new"}
    session.push(event("tool_execution_end", toolCallId="e", toolName="edit", isError=False, result={"content": [], "details": diff}))
    terminal.await_row(r"^    \+2 new$")
    row = next(number for number, text in enumerate(terminal.model.display) if "+2 new" in text)
    assert [terminal.model.buffer[row + up][4].fg for up in (-1, 0)] == ["red", "green"]
    terminal.type("/output 9")
    terminal.await_row("^! there is no such output$")


def test_a_result_that_is_too_large_for_its_event_is_fetched(session, attached):
    whole = {"content": [{"type": "text", "text": "first\n" + "x\n" * 5000 + "last\n"}]}
    history = session.handlers["history"]

    def past(request):
        if not request.get("raw"):
            return history(request)
        assert request["sinceSeq"] == 41 and request["event"] == "tool_execution_end"
        return {"events": [{"seq": 42, "data": {"toolUseId": "t", "isError": False, "result": whole}}]}

    session.on("history", past)
    terminal = attached()
    session.push({**event("tool_execution_end", toolUseId="t", toolName="bash", isError=False, resultBytes=10012, resultPreview="{"), "seq": 42})
    terminal.await_row("4996 more lines \\(/output 1\\)")
    terminal.await_row("^    last$")
    assert "[bash] -> ok" in terminal.rows


def test_commands_and_their_values_are_completed(session, attached):
    session.on("get_commands", lambda request: {"commands": [{"name": "skill:review", "source": "skill"}]})
    session.on("configure", lambda request: {})
    terminal = attached()
    terminal.press(b"/st\t")
    terminal.await_row("^/steer  /stop$")
    terminal.press(b"\x15/skil")

    def completed():
        """The session tells its commands after a moment."""
        terminal.press(b"\t")
        terminal.pump()
        return "> /skill:review" in terminal.rows

    eventually(completed, "the session's command is completed")
    terminal.press(b"now\r")
    assert sent(session) == "/skill:review now"
    terminal.press(b"/thin\thi\t\r")
    assert session.wait_request("configure")["thinkingLevel"] == "high"
    terminal.press(b"/attach \t")
    terminal.await_row("^> /attach " + session.row["sessionId"])


def test_the_session_is_changed_and_asked(session, attached):
    session.on("configure", lambda request: [response(request, error="Unknown model \"x\"")] if "model" in request else {})
    session.on("compact", lambda request: {"summary": "s", "tokensBefore": 12345})
    session.on("clear", lambda request: {"steering": ["a"], "followUp": ["b"]})
    facts = {
        "tokens": {"input": 1000, "output": 200, "cacheRead": 30, "cacheWrite": 0, "total": 1230}, "cost": 0.5, "prompts": 3,
        "today": {"tokens": 230, "cost": 0.25}, "contextTokens": 900, "contextWindow": 200000, "pendingMessages": 0,
        "queue": [{"from": "ada", "waitingMs": 5000, "bytes": 10}],
    }
    session.on("inspect", lambda request: facts)
    terminal = attached(columns=100, rows=30)
    for line, shown in (
        ("/model x", '^! Unknown model "x"$'),
        ("/model", "^-- model demo-model, thinking off$"),
        ("/name a new name", None),
        ("/compact keep the plan", r"^-- that is done \(it had 12.3k tokens\)$"),
        ("/cost", r"^-- session: 1000 in, 30 cached, 200 out, \$0\.5000; 3 prompts$"),
        ("/cost", r"^-- today: 230 tokens, \$0\.2500$"),
        ("/cost", "^-- context: 900 of 200.0k tokens$"),
        ("/queue", "^-- a prompt from ada of 10 bytes waits for 5 s$"),
        ("/queue clear", "^-- 2 messages are forgotten$"),
        ("/help", "^   /output \\[N\\] +all of a tool's output"),
    ):
        terminal.type(line)
        if shown:
            terminal.await_row(shown)
    assert session.wait_request("configure", 2)["name"] == "a new name"
    assert session.wait_request("compact")["instructions"] == "keep the plan"
    terminal.type("/etc/hosts has what?")
    assert sent(session) == "/etc/hosts has what?"
    terminal.type("/stop")
    assert session.wait_request("shutdown")["confirm"] is True
    session.push(event("bridge_stop", reason="stopped"))
    session.drop_clients()
    assert terminal.wait_exit() == 0


def test_the_totals_are_those_of_the_session(session, attached):
    session.on("inspect", lambda request: {"tokens": {"total": 50000}, "cost": 1.5})
    terminal = attached(columns=100)
    session.push(event("agent_start"), answer("x"), event("agent_end", messages=[]))
    terminal.await_row(r"^-- 120 in, 30 out, \$0\.0042 \(session: 50\.0k tokens, \$1\.5000\)$")


def test_a_question_is_answered_where_it_is_asked(session, attached):
    terminal = attached()
    session.event("question", action="opened", **question("q1", part("Which way?", ["Left", "Right"])))
    terminal.await_row("^  2\\) Right$")
    terminal.type("2")
    assert session.wait_request("answer")["answers"] == [["Right"]]


def test_ctrl_c_forgets_the_line_then_aborts_then_leaves(session, attached):
    session.state["isIdle"] = False
    terminal = attached()
    terminal.press(b"some text")
    terminal.await_row("^> some text$")
    terminal.ctrl_c()
    terminal.await_row("^>$")
    terminal.ctrl_c()
    session.wait_request("abort")
    terminal.await_row("^-- aborting; Ctrl-C again leaves$")
    terminal.ctrl_c()
    assert terminal.wait_exit() == 0
    assert terminal.text.endswith("\x1b[?2004l")
    assert [request["type"] for request in session.requests].count("abort") == 1


def test_another_size(session, attached):
    terminal = attached()
    terminal.press(b"0123456789" * 5)
    terminal.await_row("^> " + "0123456789" * 5)
    terminal.resize(30, 12)
    terminal.await_screen(lambda rows: rows[-2:] == ["> " + ("0123456789" * 5)[:28], ("0123456789" * 5)[28:]], "wrapped anew")
    terminal.resize(100, 30)
    terminal.await_screen(lambda rows: rows[-1] == "> " + "0123456789" * 5, "in one row")
    session.push(delta("text\n"))
    terminal.await_row("^text$")


@pytest.mark.parametrize(("environment", "colours"), [({"NO_COLOR": "1"}, False), ({}, True)])
def test_colours_are_a_choice(session, attached, environment, colours):
    terminal = attached(**environment)
    session.push(event("agent_start"), delta("a `b` **c**\n"), answer("a `b` **c**\n"), event("agent_end", messages=[]))
    terminal.await_row("^a b c$" if colours else "^a `b` c$")
    session.push({"type": "bridge_error", "error": "broken", "where": "server"})
    terminal.await_row("^! broken$")
    assert ("\x1b[31m" in terminal.text) == colours


def test_the_terminal_is_left_as_it_was(session, attached):
    terminal = attached()
    terminal.process.send_signal(signal.SIGTERM)
    assert terminal.wait_exit() == 1
    assert terminal.text.rstrip().endswith("Ended by a signal")
    assert "\x1b[?2004l" in terminal.text


def test_the_end_of_a_session_is_told_with_its_reason(session, attached):
    terminal = attached()
    session.push(event("bridge_stop", reason="expired"))
    session.drop_clients()
    assert terminal.wait_exit() == 1
    assert "-- the session ends: expired" in terminal.text and "The session has ended: expired" in terminal.text


def test_a_daemon_that_comes_back_is_found_with_what_was_missed(session, attached, new_bridge):
    session.past = [{**said("user", "one"), "seq": 7}]
    session.state["sessionId"] = session.row["sessionId"]
    terminal = attached()
    session.close()
    terminal.await_row("^-- the daemon is gone; waiting for it to come back")
    terminal.press(b"meanwhile")
    terminal.await_row("^> meanwhile$")
    again = fake_session(new_bridge(session.path.stem))
    again.state["sessionId"] = again.row["sessionId"]
    missed = [{**answer("What you missed."), "seq": 8}]
    again.on("subscribe", lambda request: [*missed, response(request, {"enabled": True})])
    terminal.await_row("^-- connected again$")
    assert again.wait_request("subscribe")["sinceSeq"] == 7
    terminal.await_row("^What you missed\\.$")
    terminal.press(b"\r")
    assert sent(again) == "meanwhile"


@pytest.mark.parametrize("told", [True, False])
def test_a_session_that_is_started_anew_missed_nothing_of_its_end(session, attached, new_bridge, told):
    """Its numbers go on far above the last one, which is no gap in what was told."""
    session.past = [{**said("user", "one"), "seq": 7}]
    session.state["sessionId"] = session.row["sessionId"]
    terminal = attached()
    if told:
        session.push({**event("bridge_stop", reason="shutdown"), "seq": 8})
        terminal.await_row("^-- the session ends: shutdown$")
    session.close()
    terminal.await_row("^-- the daemon is gone; waiting for it to come back")
    again = fake_session(new_bridge(session.path.stem))
    again.state["sessionId"] = again.row["sessionId"]
    anew = 100_000_000_001
    new = [
        {**event("bridge_gap", **{"from": 8}, to=anew - 1), "seq": anew - 1}, {**event("bridge_start"), "seq": anew},
        {**answer("What is new."), "seq": anew + 1},
    ]
    again.on("subscribe", lambda request: [*new, response(request, {"enabled": True})])
    terminal.await_row("^What is new\\.$")
    assert "were missed" not in terminal.text
    assert ("what it told last before that may be missing" in terminal.text) == (not told)


def test_a_session_that_does_not_come_back_is_over(session, attached, new_bridge):
    terminal = attached()
    session.push(event("bridge_stop", reason="shutdown"))
    session.close()
    terminal.await_row("^-- the daemon is gone; waiting for it")
    terminal.ctrl_c()
    assert terminal.wait_exit() == 0


def test_going_on_to_another_session(session, attached, new_bridge):
    other = fake_session(new_bridge("other-session", sessionName="second"))
    other.state["sessionName"] = "second"
    terminal = attached("--session", session.row["sessionId"])
    terminal.type("/attach second")
    terminal.await_row("^-- session second in /w")
    terminal.type("hello")
    assert sent(other) == "hello"
    terminal.type("/attach nonsense")
    eventually(lambda: terminal.expect("No such session: nonsense"), "it is told")


def test_json_of_the_state_is_read_with_care(session, attached):
    """Whatever a session says, the header is one line of text."""
    session.state["sessionName"] = "a\x1b[2Jb"
    session.state["model"] = json.loads('{"provider": "p", "id": "m"}')
    terminal = attached()
    assert "-- session a?[2Jb in /w, p/m, idle (/help)" in terminal.rows
