"""The documents of the repository, and what in them can be run.

A block ```console has command lines behind `$ ` and what they print; a block ```jsonl has a conversation over a socket,
`--> ` before what is sent and `<-- ` before what is received. In what is printed or received, `…` stands for anything
within a line, and alone on a line for any lines.
"""

import json
import re
import subprocess
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[3]
DOCUMENTS = [
    "README.md", "src/service/PROTOCOL.md", "src/socket/PROTOCOL.md", "src/config/SETTINGS.md", "src/model/MODELS.md",
    "src/session/SESSIONS.md", ".github/CONTRIBUTING.md", ".github/SECURITY.md", ".github/CHANGELOG.md",
    "tests/e2e/provider_cases/README.md",
]


def text(name):
    return (ROOT / name).read_text()


def blocks(name, language):
    """The document's blocks in a language, as (what else stands behind its name, text)."""
    found = re.findall(rf"^( *)```{language}(?: (\w+))?\n(.*?)^ *```$", text(name), re.DOTALL | re.MULTILINE)
    return [(word, textwrap.dedent(body)) for _, word, body in found]


def pattern(lines):
    """What `lines` stands for, as a regular expression."""
    found = ""
    for line in lines:
        if line.strip() == "…":
            found += r"(?:.*\n)*?"
        else:
            found += ".*".join(re.escape(part) for part in line.split("…")) + "\n"
    return re.compile(found)


def commands(block):
    """The command lines of a console block, each with the lines that it prints."""
    found = []
    for line in block.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
        else:
            found[-1][1].append(line)
    return found


def play(block, environment, replace=()):
    """Runs the command lines of a console block; each has to print what the document says."""
    for command, expected in commands(block):
        for old, new in replace:
            command = command.replace(old, new)
        done = subprocess.run(
            ["bash", "-uo", "pipefail", "-c", command], cwd=ROOT, env=environment, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=50,
        )
        printed = done.stdout if done.stdout.endswith("\n") or not done.stdout else done.stdout + "\n"
        shown = "\n".join(expected)
        assert pattern(expected).fullmatch(printed), f"$ {command}\n{printed}{done.stderr}\nthe document has:\n{shown}"
        assert done.returncode == 0, done.stderr


def converse(block, bridge):
    """Has the conversation of a jsonl block with a client that is connected just now."""
    waiting = [bridge.hello]
    for line in block.splitlines():
        direction, record = line[:4], line[4:]
        if direction == "--> ":
            bridge.send_bytes(record.encode() + b"\n")
            continue
        assert direction == "<-- ", line
        wanted = pattern([record])
        # Whatever does not come ends this with what came last.
        while True:
            received = waiting.pop(0) if waiting else bridge.record()
            line = json.dumps(received, separators=(",", ":"), ensure_ascii=False)
            if wanted.fullmatch(f"{line}\n"):
                break
