"""The exact limits of what a model gets to see of files and of output, and edits of files with uncommon characters."""

import pytest

from support.model_script import ToolCall

pytestmark = pytest.mark.any_server

KIB50 = 51200


def result_of(daemon, model, name, **arguments):
    """What the model is told about one call."""
    model.script([ToolCall(name, arguments)], "done")
    assert daemon.run("go").text() == "done"
    ((text, _),) = model.requests[-1].tool_results
    return text


def lines(count, length=2):
    """So many lines of so many bytes, line end included."""
    return "".join("x" * (length - 1) + "\n" for _ in range(count))


@pytest.mark.parametrize(
    ("content", "kept", "notice"),
    [
        (lines(2000), lines(2000), ""),
        (lines(2001), lines(2000), "\n[Showing lines 1-2000 of 2001. Use offset=2001 to continue.]"),
        (lines(512, 100), lines(512, 100), ""),
        (lines(512, 100) + "y", lines(512, 100), "\n[Showing lines 1-512 of 513 (50.0KB limit). Use offset=513 to continue.]"),
        ("x" * KIB50, "x" * KIB50, ""),
        (
            "x" * 60_000,
            "",
            f"[Line 1 is 58.6KB, exceeds 50.0KB limit. Use bash: sed -n '1p' PATH | head -c {KIB50}]",
        ),
    ],
    ids=["2000 lines", "2001 lines", "51200 bytes", "51201 bytes", "one line of 51200 bytes", "one line of 60 KB"],
)
def test_how_much_of_a_file_is_read(daemon, model, content, kept, notice):
    path = daemon.cwd / "file.txt"
    path.write_text(content)
    text = result_of(daemon, model, "read", path=str(path))
    assert text == kept + notice.replace("PATH", str(path))


@pytest.mark.parametrize(
    ("content", "kept", "notice"),
    [
        (lines(2000), lines(2000), None),
        (lines(2001), lines(2000), "[Showing lines 2-2001 of 2001. Full output: "),
        (lines(512, 100), lines(512, 100), None),
        ("y\n" + lines(512, 100), lines(512, 100), "[Showing lines 2-513 of 513 (50.0KB limit). Full output: "),
        ("x" * 60_000, "x" * KIB50, "[Showing last 50.0KB of line 1 (line is 58.6KB). Full output: "),
    ],
    ids=["2000 lines", "2001 lines", "51200 bytes", "51202 bytes", "one line of 60 KB"],
)
def test_how_much_output_is_shown(daemon, model, content, kept, notice):
    (daemon.cwd / "output.txt").write_text(content)
    text = result_of(daemon, model, "bash", command="cat output.txt")
    if notice is None:
        assert text == kept
    else:
        shown, _, rest = text.rpartition(notice)
        assert shown.rstrip("\n") == kept.rstrip("\n")
        assert rest.endswith("]") and "\n" not in rest


def test_an_edit_finds_smart_quotes_and_keeps_the_byte_order_mark_and_line_ends(daemon, model):
    path = daemon.cwd / "windows.txt"
    path.write_bytes("\ufefffirst\r\nsay \u201chi\u201d \u2013 it\u2019s me\r\nlast\r\n".encode())
    edits = [{"oldText": "say \"hi\" - it's me\nlast", "newText": "said\nlast"}]
    assert "Successfully replaced" in result_of(daemon, model, "edit", path="windows.txt", edits=edits)
    assert path.read_bytes() == "\ufefffirst\r\nsaid\r\nlast\r\n".encode()


def test_edits_that_overlap_change_nothing(daemon, model):
    path = daemon.cwd / "file.txt"
    path.write_text("one two three\n")
    edits = [{"oldText": "one two", "newText": "1 2"}, {"oldText": "two three", "newText": "2 3"}]
    assert "overlap" in result_of(daemon, model, "edit", path="file.txt", edits=edits)
    assert path.read_text() == "one two three\n"


def test_the_older_form_of_an_edit(daemon, model):
    path = daemon.cwd / "file.txt"
    path.write_text("one\n")
    assert "Successfully replaced" in result_of(daemon, model, "edit", path="file.txt", oldText="one", newText="1")
    assert path.read_text() == "1\n"


def test_parallel_changes_of_one_file_are_made_one_after_another(daemon, model):
    path = daemon.cwd / "file.txt"
    path.write_text("".join(f"line {number};\n" for number in range(10)))
    edit = [
        ToolCall("edit", {"path": "file.txt", "edits": [{"oldText": f"line {number};", "newText": f"{number} done;"}]})
        for number in range(10)
    ]
    model.script(edit, "done")
    daemon.run("go").text()
    assert path.read_text() == "".join(f"{number} done;\n" for number in range(10))
