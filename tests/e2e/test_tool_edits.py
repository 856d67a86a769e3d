"""Changes of files: only what was asked, whatever form the call has, and nothing of a file but its text."""

import os
import struct

import pytest

from support.model_script import ToolCall

pytestmark = pytest.mark.any_server

ACCESS_LIST = "system.posix_acl_access"


def edit(daemon, model, edits, path="f", **more):
    model.script([ToolCall("edit", {"path": path, "edits": edits, **more})], "done")
    assert daemon.run("go").text() == "done"
    ((text, is_error),) = model.requests[-1].tool_results
    return text, bool(is_error)


@pytest.fixture
def file(daemon):
    return daemon.cwd / "f"


@pytest.mark.parametrize(("content", "old", "new", "expected"), [
    ("foobar = 1\n", "foo ", "qux ", None),
    ("foo\u2019bar\n", "foo' ", "x", None),
    ("ﬁle\n", "ile", "x", None),
    ("foo\nbar\n", "foo \nbar", "x", "x\n"),
    ("print(\"你好\uff0c世界\uff1aok\")  # say “hi”\n", 'say "hi"', 'say "ho"', "print(\"你好\uff0c世界\uff1aok\")  # say \"ho\"\n"),
    ("“a” ﬁ ｶﾞ  \r\n“b”  \r\n", '"b"', "b", "“a” ﬁ ｶﾞ  \r\nb  \r\n"),
    ("cafe\u0301 \u2013 x\n", "é - x", "y", "cafy\n"),
    ("\ufeffone\ntwo\n", "\ufeffone", "\ufeff1", "\ufeff1\ntwo\n"),
])
def test_only_what_was_found_changes(daemon, model, file, content, old, new, expected):
    file.write_bytes(content.encode())
    text, is_error = edit(daemon, model, [{"oldText": old, "newText": new}])
    assert is_error == (expected is None), text
    assert file.read_bytes().decode() == (content if expected is None else expected)


@pytest.mark.parametrize("edits", [
    '[{"oldText":"a","newText":"line one\n\tline two"}]',
    '{"oldText":"a","newText":"line one\n\tline two"}',
    ['{"oldText":"a","newText":"line one\n\tline two"}'],
    {"oldText": "a", "newText": "line one\n\tline two"},
    "[{'".replace("'", '"') + 'oldText":"a","newText":"line one\\n\tline two"}]',
])
def test_arguments_as_models_write_them(daemon, model, file, edits):
    file.write_text("a\n")
    text, is_error = edit(daemon, model, edits)
    assert not is_error, text
    assert file.read_text() == "line one\n\tline two\n"


def changed(daemon, model, how):
    if how == "write":
        model.script([ToolCall("write", {"path": "f", "content": "two\n"})], "done")
        daemon.run("go").text()
    else:
        edit(daemon, model, [{"oldText": "one", "newText": "two"}])
    assert (daemon.cwd / "f").read_text() == "two\n"


both = pytest.mark.parametrize("how", ["edit", "write"])


@both
def test_all_names_of_a_file_show_the_change(daemon, model, file, how):
    file.write_text("one\n")
    os.link(file, daemon.cwd / "b")
    changed(daemon, model, how)
    assert (daemon.cwd / "b").read_text() == "two\n" and file.stat().st_nlink == 2


@both
def test_access_lists_stay(daemon, model, file, how):
    file.write_text("one\n")
    everybody = 0xFFFFFFFF
    entries = [(1, 6, everybody), (2, 6, 65534), (4, 0, everybody), (0x10, 6, everybody), (0x20, 0, everybody)]
    access_list = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    try:
        os.setxattr(file, ACCESS_LIST, access_list)
    except OSError:
        pytest.skip("no access lists here")
    mode = file.stat().st_mode
    changed(daemon, model, how)
    assert os.getxattr(file, ACCESS_LIST) == access_list and file.stat().st_mode == mode


@both
def test_a_folders_list_does_not_widen_access(daemon, model, file, how):
    file.write_text("one\n")
    file.chmod(0o600)
    everybody = 0xFFFFFFFF
    entries = [(1, 7, everybody), (2, 7, 65534), (4, 7, everybody), (0x10, 7, everybody), (0x20, 7, everybody)]
    try:
        os.setxattr(daemon.cwd, "system.posix_acl_default", struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *e) for e in entries))
    except OSError:
        pytest.skip("no access lists here")
    changed(daemon, model, how)
    assert ACCESS_LIST not in os.listxattr(file) and file.stat().st_mode & 0o777 == 0o600


@both
def test_attributes_stay(daemon, model, file, how):
    file.write_text("one\n")
    try:
        os.setxattr(file, "user.note", b"mine")
    except OSError:
        pytest.skip("no attributes here")
    changed(daemon, model, how)
    assert os.getxattr(file, "user.note") == b"mine"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@both
def test_the_owner_stays(new_daemon, model, how):
    daemon = new_daemon()
    # In a sandbox root has no privileges, so that it cannot write to others' files.
    daemon.config["sandbox"] = "off"
    daemon.start()
    file = daemon.cwd / "f"
    file.write_text("one\n")
    os.chown(file, 65534, 65533)
    file.chmod(0o640)
    changed(daemon, model, how)
    found = file.stat()
    assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (65534, 65533, 0o640)
