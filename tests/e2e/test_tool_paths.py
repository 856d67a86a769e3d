"""The file that a tool means: the one that is there, under whatever spelling, and told by its name."""

import pytest

from support.model_script import ToolCall

pytestmark = pytest.mark.any_server


def call(daemon, model, name, **arguments):
    model.script([ToolCall(name, arguments)], "done")
    assert daemon.run("go", tools=["*"]).text() == "done"
    ((text, _),) = model.requests[-1].tool_results
    return text


EDITS = [{"oldText": "one", "newText": "two"}]


@pytest.mark.parametrize("asked", ["a b.txt", "a\u00a0b.txt", "a\u2009b.txt", "@a b.txt"])
@pytest.mark.parametrize("name", ["read", "edit", "write", "grep"])
def test_another_blank_on_the_disk(daemon, model, asked, name):
    file = daemon.cwd / "a\u00a0b.txt"
    file.write_text("one\n")
    arguments = {"read": {}, "edit": {"edits": EDITS}, "write": {"content": "two\n"}, "grep": {"pattern": "one"}}[name]
    text = call(daemon, model, name, path=asked, **arguments)
    assert [path.name for path in daemon.cwd.iterdir()] == [file.name], "there is no twin"
    if name in ("edit", "write"):
        assert file.read_text() == "two\n" and "a\u00a0b.txt" in text
    else:
        assert "one" in text


def test_another_normal_form_of_folders(daemon, model):
    (daemon.cwd / "re\u0301sume\u0301").mkdir()
    text = call(daemon, model, "write", path="r\u00e9sum\u00e9/new.txt", content="x")
    assert "re\u0301sume\u0301/new.txt" in text
    assert "new.txt" in call(daemon, model, "ls", path="r\u00e9sum\u00e9")
    assert len(list(daemon.cwd.iterdir())) == 1


def test_a_folder_that_begins_with_an_at(daemon, model):
    (daemon.cwd / "@types").mkdir()
    (daemon.cwd / "@types/x.d.ts").write_text("here")
    (daemon.cwd / "src").mkdir()
    (daemon.cwd / "src/a.ts").write_text("there")
    assert call(daemon, model, "read", path="@types/x.d.ts") == "here"
    call(daemon, model, "write", path="@types/y.d.ts", content="y")
    assert (daemon.cwd / "@types/y.d.ts").read_text() == "y" and not (daemon.cwd / "types").exists()
    assert call(daemon, model, "read", path="@src/a.ts") == "there"
    assert "src/b.ts" in call(daemon, model, "write", path="@src/b.ts", content="b")
    assert (daemon.cwd / "src/b.ts").exists() and not (daemon.cwd / "@src").exists()


@pytest.mark.parametrize(("pattern", "expected"), [
    ("./src/*.ts", "src/a.ts"), ("src/*.ts", "src/a.ts"), ("./a.ts", "src/a.ts"), ("src/", "src/"), ("./src/lib/", "src/lib/"),
])
def test_patterns_of_find(daemon, model, pattern, expected):
    (daemon.cwd / "src/lib").mkdir(parents=True)
    (daemon.cwd / "src/a.ts").write_text("")
    assert call(daemon, model, "find", pattern=pattern) == expected


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_is_read(daemon, model, encoding):
    (daemon.cwd / "f").write_bytes(("\ufeff" + "grüß dich\nzwei\n").encode(encoding))
    assert call(daemon, model, "read", path="f") == "grüß dich\nzwei\n"


def test_an_ignored_folder_that_is_named(daemon, model):
    for name in (".git", "node_modules/x"):
        (daemon.cwd / name).mkdir(parents=True)
    (daemon.cwd / ".gitignore").write_text("node_modules\n")
    (daemon.cwd / "node_modules/x/i.js").write_text("needle")
    assert "name it as path" in call(daemon, model, "find", pattern="node_modules/**/*.js")
    text = call(daemon, model, "find", pattern="*.js", path="node_modules")
    assert text.startswith("x/i.js\n\n[") and "ignored" in text
    text = call(daemon, model, "grep", pattern="needle", path="node_modules")
    assert text.startswith("x/i.js:1: needle\n\n[") and "ignored" in text
