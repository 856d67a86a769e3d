"""Questions of the model to people: opened by its tool, answered over the side channel."""

import threading

import pytest

from support.bridge import Bridge
from support.model_script import ToolCall

PATH = {"header": "Path", "question": "Which path?", "options": [{"label": "A", "description": "first"}, {"label": "B"}]}
CLOSED = {"question": "Sure?", "options": [{"label": "Yes"}, {"label": "No"}], "allowCustom": False}
MANY = {"header": "Extras", "question": "What else?\nAll of it.", "options": [{"label": "X"}, {"label": "Y"}], "multiple": True}


@pytest.fixture
def asking(daemon, model):
    """Starts a session whose model asks these questions; has what the tests need of it."""
    made = []

    class Asking:
        def __init__(self, *questions, then="done"):
            model.script("hello", [ToolCall("question", {"questions": list(questions)})], then)
            daemon.session("s", "hi", tools=["question"]).text()
            self.client = self.connect()
            self.stream = daemon.prompt("s", "go")

        def connect(self):
            made.append(Bridge(daemon.session_socket("s")))
            return made[-1]

        def closed(self, action, client=None):
            return (client or self.client).event("question", where=lambda event: event["data"]["action"] == action)["data"]

        def opened(self):
            return self.closed("opened")

        def pending(self):
            return self.client.ask("questions")["questions"]

        def told(self):
            """What the model was told, and whether as an error, once the run is over."""
            assert self.stream.text() == "done"
            return model.requests[-1].tool_results[-1]

    yield Asking
    for client in made:
        client.close()


def test_a_question_waits_until_it_is_answered(asking):
    session = asking(PATH)
    opened = session.opened()
    (question,) = session.pending()
    assert question == {key: opened[key] for key in ("requestId", "openedAt", "request")}
    assert (opened["source"], opened["request"]["header"]) == ("tool", "Path")
    (tab,) = opened["request"]["questions"]
    assert tab["options"] == [{"description": "first", "label": "A"}, {"description": "", "label": "B"}]
    assert (tab["multiple"], tab["allowCustom"], tab["question"]) == (False, True, "Which path?")

    request = opened["requestId"]
    response = session.client.exchange("answer", requestId=f" {request} ", answers=[[" B "]])
    assert (response["command"], response["data"]) == ("answer", {"answered": True, "requestId": request})
    names = [(record["type"], record.get("data", {}).get("action")) for record in session.client.seen]
    assert names.index(("event", "answered")) < session.client.seen.index(response), "the event comes first"
    data = session.closed("answered")
    assert data["result"] == {"requestId": request, "answers": [["B"]]}
    assert (data["request"], data["openedAt"], data["source"]) == (opened["request"], opened["openedAt"], "bridge")
    assert data["closedAt"] >= data["openedAt"]

    assert session.told() == ("> Which path?\n\nB", False)
    assert session.pending() == []
    end = session.client.event("tool_execution_end")["data"]
    assert end["result"]["details"] == {"requestId": request, "answers": [["B"]]}


def test_several_questions_are_answered_together_and_mistakes_leave_them_open(asking):
    session = asking(PATH, CLOSED, MANY)
    request = session.opened()["requestId"]
    for answers, error in [
        ("A", "answers must be an array of per-tab label arrays"),
        ([["A"]], "answers length (1) must match questions length (3)"),
        ([["A"], "Yes", []], "answers[1] must be an array"),
        ([["A"], [1], []], "answers[1] entries must be strings"),
        ([["A"], ["Maybe"], []], "answers[1] contains invalid label: Maybe"),
        ([["A", "B"], [], []], "answers[0] accepts only one label because multiple=false"),
    ]:
        assert error in session.client.refusal("answer", requestId=request, answers=answers)
    assert [question["requestId"] for question in session.pending()] == [request]
    # The other name of the request, and of its field.
    session.client.ask("question_reply", request_id=request, answers=[["my own way"], [], ["Y", "X", "Y", " "]])
    assert session.told() == (
        "Path\n> Which path?\n\nmy own way\n\nQuestion 2\n> Sure?\n\n(no selection)\n\n"
        "Extras\n> What else?\n> All of it.\n\nY\nX",
        False,
    )


def test_the_first_answer_counts(asking):
    session = asking(PATH)
    request = session.opened()["requestId"]
    clients = [session.connect() for _ in range(4)]
    start = threading.Barrier(len(clients))
    outcomes = [None] * len(clients)

    def answer(number):
        start.wait(10)
        label = f"client {number}"
        outcomes[number] = clients[number].exchange("answer", requestId=request, answers=[[label]])

    threads = [threading.Thread(target=answer, args=(number,)) for number in range(len(clients))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    (winner,) = [number for number, outcome in enumerate(outcomes) if outcome["success"]]
    for number, outcome in enumerate(outcomes):
        if number != winner:
            assert f"No pending question request: {request}" in outcome["error"]
    assert session.told() == (f"> Which path?\n\nclient {winner}", False)
    for client in clients:
        assert session.closed("answered", client)["result"]["answers"] == [[f"client {winner}"]]
    assert "No pending question request" in session.client.refusal("reject", requestId=request)


def test_a_rejected_question_is_a_failed_call(asking):
    session = asking(PATH)
    request = session.opened()["requestId"]
    assert session.client.ask("reject", requestId=request) == {"rejected": True, "requestId": request}
    data = session.closed("rejected")
    assert (data["source"], data["result"]) == ("bridge", {"requestId": request, "cancelled": True})
    assert session.told() == ("The question was not answered", True)


def test_an_abort_closes_the_question(asking):
    session = asking(PATH)
    session.opened()
    session.client.ask("abort")
    data = session.closed("rejected")
    assert (data["source"], data["result"]["cancelled"]) == ("tool", True)
    assert session.pending() == []
    session.stream.failure()


def test_the_sessions_end_closes_the_question(asking, daemon):
    session = asking(PATH)
    session.opened()
    daemon.stop_session("s")
    data = session.closed("rejected")
    assert data["source"] == "shutdown"
    session.stream.failure()


def test_the_model_is_told_what_is_wrong_with_its_question(asking):
    session = asking({"question": "Which?", "options": []})
    text, error = session.told()
    assert (text, error) == ("questions[0].options must be a non-empty array", True)
    assert session.pending() == []
    assert all(record.get("event") != "question" for record in session.client.seen)


def test_a_large_question_keeps_its_identity_in_the_event(asking):
    options = [{"label": f"option {number}", "description": "d" * 200} for number in range(100)]
    session = asking({"question": "Which?", "options": options})
    event = session.client.event("question")
    assert event["truncated"] and event["originalBytes"] > 20000
    assert (event["data"]["requestId"], event["data"]["source"]) == (session.pending()[0]["requestId"], "tool")
    (question,) = session.pending()
    assert len(question["request"]["questions"][0]["options"]) == 100
    session.client.ask("answer", requestId=question["requestId"], answers=[["option 7"]])
    assert session.told() == ("> Which?\n\noption 7", False)


def test_questions_may_be_asked_in_parallel(daemon, model):
    calls = [ToolCall("question", {"questions": [{**PATH, "question": f"{name}?"}]}) for name in ("one", "two")]
    model.script("hello", calls, "done")
    daemon.session("s", "hi", tools=["question"]).text()
    with Bridge(daemon.session_socket("s")) as client:
        stream = daemon.prompt("s", "go")
        asked = {}
        while len(asked) < 2:
            data = client.event("question")["data"]
            asked[data["request"]["questions"][0]["question"]] = data["requestId"]
        for name in ("two?", "one?"):
            client.ask("answer", requestId=asked[name], answers=[[f"for {name}"]])
        assert stream.text() == "done"
    texts = [text for text, _ in model.requests[-1].tool_results]
    assert texts == ["> one?\n\nfor one?", "> two?\n\nfor two?"]


def test_a_question_that_nobody_answers_in_time_is_rejected(new_daemon, model):
    daemon = new_daemon()
    daemon.config["questionTimeout"] = 1
    daemon.start()
    model.script("hello", [ToolCall("question", {"questions": [PATH]})], "done")
    daemon.session("s", "hi").text()
    with Bridge(daemon.session_socket("s")) as client:
        stream = daemon.prompt("s", "go")
        request = client.event("question")["data"]["requestId"]
        closed = client.event("question")["data"]
        assert (closed["action"], closed["result"]["cancelled"]) == ("rejected", True)
        assert stream.text() == "done"
        assert "No pending question request" in client.refusal("answer", requestId=request, answers=[["A"]])
    assert model.requests[-1].tool_results == [("The question was not answered: nobody answered in time", True)]
