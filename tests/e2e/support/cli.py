"""The client under test, pi-bridge, run to its end or in a terminal."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from pathlib import Path

from .daemon import BINARY as DAEMON
from .waiting import DEADLINE

HEADER = "SESSION"
"""The first column of the table of sessions."""
BINARY = os.environ.get("NATS_PI_BRIDGE_CLI") or str(Path(DAEMON).with_name("pi-bridge"))


def lines(text):
    return text.splitlines()


def one_line(done):
    """Asserts a failure of one clear line; returns it."""
    assert done.returncode == 1 and done.stdout == ""
    (line,) = lines(done.stderr)
    assert "panicked" not in line
    return line


class Cli:
    """Calls of the client with one bridge directory."""

    def __init__(self, bridge_directory, cwd):
        self.directory = bridge_directory
        self.cwd = cwd
        self.environment = {"PATH": os.environ["PATH"], "PI_BRIDGE_DIR": str(bridge_directory), "LANG": "C.UTF-8"}
        self.started = []
        self.terminals = []

    def __call__(self, *arguments, input="", **environment):
        """Runs it until it ends by itself; returns the completed process with text output."""
        return subprocess.run(
            [BINARY, *map(str, arguments)], env={**self.environment, **environment}, cwd=self.cwd, input=input,
            capture_output=True, text=True, timeout=DEADLINE * 2,
        )

    def start(self, *arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE):
        """Starts it; output is in bytes."""
        process = subprocess.Popen(
            [BINARY, *map(str, arguments)], env=self.environment, cwd=self.cwd, stdin=stdin, stdout=stdout,
            stderr=subprocess.PIPE,
        )
        self.started.append(process)
        return process

    def terminal(self, *arguments, columns=200, rows=40, **environment):
        """Starts it in a terminal of its own."""
        environment = {**self.environment, "TERM": "xterm", **environment}
        terminal = Terminal([BINARY, *map(str, arguments)], environment, self.cwd, columns, rows)
        self.started.append(terminal.process)
        self.terminals.append(terminal)
        return terminal

    def shell(self, script, **environment):
        """Runs a script of bash in which pi-bridge is found."""
        path = f"{Path(BINARY).resolve().parent}:{os.environ['PATH']}"
        return subprocess.run(
            ["bash", "-c", script], env={**self.environment, **environment, "PATH": path}, cwd=self.cwd,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=DEADLINE * 2,
        )

    def close(self):
        for process in self.started:
            if process.poll() is None:
                process.kill()
            process.wait(DEADLINE)
        for terminal in self.terminals:
            terminal.close()


class Terminal:
    """A program in a terminal."""

    def __init__(self, command, environment, cwd, columns, rows):
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        # Only tests of terminals need it.
        import pyte

        self.model = pyte.HistoryScreen(columns, rows, history=5000, ratio=0.5)
        self.stream = pyte.ByteStream(self.model)
        self.process = subprocess.Popen(
            command, env=environment, cwd=cwd, stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(slave)
        self.text = ""
        self.seen = 0

    def _read(self, timeout):
        """Reads what there is; false when the program has closed the terminal."""
        ready, _, _ = select.select([self.master], [], [], timeout)
        if not ready:
            return True
        try:
            data = os.read(self.master, 65536)
        except OSError:
            return False
        # The terminal's own line ends, and what clears a line, are of no interest.
        self.stream.feed(data)
        self.text += data.decode(errors="replace").replace("\r\n", "\n").replace("\r\x1b[K", "\n")
        return bool(data)

    def expect(self, pattern, timeout=DEADLINE):
        """Waits until the text since the last expectation matches; returns the match."""
        end = time.monotonic() + timeout
        while True:
            found = re.compile(pattern, re.MULTILINE).search(self.text, self.seen)
            if found:
                self.seen = found.end()
                return found
            left = end - time.monotonic()
            assert (left > 0 and self._read(min(left, 0.2))) or re.search(pattern, self.text[self.seen:], re.MULTILINE), (
                f"no {pattern!r} in {self.text[self.seen:]!r}; before: {self.text[:self.seen]!r}"
            )

    @property
    def rows(self):
        """What is on the screen, without blanks at the ends of rows and empty rows at its end."""
        rows = [row.rstrip() for row in self.model.display]
        while rows and not rows[-1]:
            rows.pop()
        return rows

    @property
    def scrolled(self):
        """The rows that have left the screen at its top, then those on it."""
        above = ["".join(row[column].data for column in range(self.model.columns)) for row in self.model.history.top]
        return [row.rstrip() for row in above] + self.rows

    def await_screen(self, condition, what, timeout=DEADLINE):
        """Reads until the screen is as `condition`, which takes its rows, wants it."""
        end = time.monotonic() + timeout
        while not condition(self.rows):
            left = end - time.monotonic()
            open_ = left > 0 and self._read(min(left, 0.2))
            assert open_ or condition(self.rows), f"{what}: not on the screen:\n" + "\n".join(self.rows)
        return self.rows

    def pump(self, time_=0.2):
        """Takes what the terminal sends next, if anything comes in this time."""
        self._read(time_)

    def await_row(self, pattern, timeout=DEADLINE):
        """Reads until a row of the screen matches; returns the match of the lowest one."""
        found = []

        def matches(rows):
            found[:] = [match for row in rows if (match := re.search(pattern, row))]
            return found

        self.await_screen(matches, repr(pattern), timeout)
        return found[-1]

    @property
    def cursor(self):
        """Row and column, from 0."""
        return self.model.cursor.y, self.model.cursor.x

    def resize(self, columns, rows):
        self.model.resize(rows, columns)
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text):
        """Types a line."""
        self.press(text.encode() + b"\n")

    def press(self, data):
        """Types bytes, however many the terminal takes at a time."""
        while data:
            data = data[os.write(self.master, data):]

    def paste(self, text):
        """Pastes, as terminals do for programs that asked for it."""
        self.press(b"\x1b[200~" + text.replace("\n", "\r").encode() + b"\x1b[201~")

    def ctrl_c(self):
        self.press(b"\x03")

    def ctrl_d(self):
        self.press(b"\x04")

    def wait_exit(self, timeout=DEADLINE):
        """The exit code; reads the rest of the text meanwhile."""
        end = time.monotonic() + timeout
        while self._read(0.05) and time.monotonic() < end and self.process.poll() is None:
            pass
        code = self.process.wait(timeout)
        while select.select([self.master], [], [], 0)[0] and self._read(0):
            pass
        return code


    def close(self):
        """As if the connection to the terminal broke."""
        if self.master is not None:
            os.close(self.master)
            self.master = None
