"""The log of a session in JetStream stays short, whatever is written, and whoever goes on with the session has all of it."""

import base64
import json
import signal

import pytest

from support import agents
from support.fleet import LONG_CARD
from support.waiting import eventually

ROUNDS = 12
# Records of a log behind a compaction, of which there are more without any removed after three rounds.
MOST = 30


@pytest.fixture
def upper(fleet):
    # What asks for a summary has many words.
    fleet.model.answer(lambda request: "summary" if " " in request.prompts[-1] else request.prompts[-1].upper())
    return fleet


def subject(fleet, name="s"):
    return f"ag.log.{fleet.hosts[0].owner}.{name}"


def size(fleet):
    """Messages of the session's log, and the bytes of all that is stored."""
    info = fleet.bus.ask_json("$JS.API.STREAM.INFO.AGL", {"subjects_filter": subject(fleet)})
    return info["state"]["subjects"][subject(fleet)], info["state"]["bytes"]


def stored_file(fleet):
    """The session file, as the records say it."""
    file, sequence = b"", 0
    while True:
        asked = {"next_by_subj": subject(fleet), "seq": sequence + 1}
        found = fleet.bus.ask_json("$JS.API.STREAM.MSG.GET.AGL", asked).get("message")
        if not found:
            return file
        sequence = found["seq"]
        head, _, rest = base64.b64decode(found["data"]).partition(b"\n")
        if json.loads(head)["kind"] == "file":
            file = file[: json.loads(head)["offset"]] + rest


def goes_on_elsewhere(fleet):
    """Kills the session's host, once all is stored; the next one has the same file."""
    owner = fleet.owner_of("s")
    (other,) = fleet.others(owner)
    (path,) = owner.session_files()
    eventually(lambda: stored_file(fleet) == path.read_bytes(), "all of it is stored")
    before = path.read_bytes()
    owner.signal(signal.SIGKILL)
    owner.wait_exit()
    other.wait_log("session s started")
    assert fleet.say("s", "again") == "AGAIN"
    (path,) = other.session_files()
    assert path.read_bytes().startswith(before)


def test_behind_compactions_the_log_is_removed(upper):
    upper.start()
    for host in upper.hosts:
        host.write_agent_file("settings.json", {"compaction": {"keepRecentTokens": 1}})
    assert upper.session("s", "hello").text() == "HELLO"
    owner = upper.owner_of("s")
    for number in range(ROUNDS):
        for word in "abc":
            text = f"{word}{number}"
            assert owner.prompt("s", text).text() == text.upper()
        assert "summary" in upper.bus.ask_json(f"{owner.subject('s')}.compact")
        eventually(lambda: size(upper)[0] <= MOST, "records before the compaction are removed")
    assert upper.records("s")[0]["kind"] == "state"
    goes_on_elsewhere(upper)


def test_a_file_that_is_written_anew_again_and_again_takes_no_more_room(upper):
    upper.start()
    assert upper.session("s", "x" * 200_000).text() == "X" * 200_000
    owner = upper.owner_of("s")
    sizes = []
    for number in range(ROUNDS):
        (path,) = owner.session_files()
        eventually(lambda path=path: b"settled" in path.read_bytes().splitlines()[-1], "it is quiet")
        again = path.with_suffix(".again")
        again.write_bytes(path.read_bytes())
        again.replace(path)
        assert owner.prompt("s", f"p{number}").text() == f"P{number}"
        sizes.append(size(upper)[1])
    assert max(sizes) < 5 << 20, sizes
    assert upper.records("s")[0]["kind"] == "state"
    goes_on_elsewhere(upper)


def test_a_log_of_which_records_are_missing_is_not_gone_on_with(upper):
    upper.start(fleetCardTime=LONG_CARD)
    for text in ("one", "two", "three"):
        stream = upper.session("s", text) if text == "one" else upper.hosts[0].prompt("s", text)
        assert stream.text() == text.upper()
    owner = upper.owner_of("s")
    (other,) = upper.others(owner)
    asked = {"next_by_subj": subject(upper), "seq": 4}
    sequence = upper.bus.ask_json("$JS.API.STREAM.MSG.GET.AGL", asked)["message"]["seq"]
    assert upper.bus.ask_json("$JS.API.STREAM.MSG.DELETE.AGL", {"seq": sequence})["success"]
    owner.signal(signal.SIGKILL)
    owner.wait_exit()
    other.wait_log("session s: records of its log are missing")
    assert not upper.has(other, "s")
    owner.start()
    assert upper.say("s", "again") == "AGAIN"
    assert upper.model.requests[-1].prompts == ["one", "two", "three", "again"]


def test_a_session_with_files_of_its_host_waits_for_it(upper):
    """Other hosts do not have them, and nothing that was accepted is lost."""
    upper.start()
    assert upper.session("s", "hello").text() == "HELLO"
    owner = upper.owner_of("s")
    (other,) = upper.others(owner)
    wire = agents.prompt(owner, "s", {"prompt": "look", "attachments": [{"filename": "note", "content": "bm90ZQ=="}]})
    wire.ack().rest()
    owner.signal(signal.SIGTERM)
    assert owner.wait_exit() == 0
    other.wait_log("session s waits for its host")
    assert upper.refusal(other, "s").word == "host_down"
    assert not upper.has(other, "s")
    owner.start()
    assert upper.say("s", "again") == "AGAIN"
    (note,) = (owner.state_dir / "s.files").rglob("*note*")
    assert note.read_text() == "note"
    assert len(upper.model.requests[-1].prompts) == 3
