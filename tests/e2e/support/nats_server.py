"""A nats-server process on a port of its own."""

import os
import random
import shutil
import signal
import socket
import subprocess

import pytest

from . import proc
from .waiting import eventually

# How the embedded broker ends when it takes the place of nats-server and is told what it does not have (broker.rs).
NOT_IN_THE_BROKER = 3


def free_port():
    """A port below the range that the kernel takes for outgoing connections, so that none of them gets it while the
    server that it is for is away."""
    while True:
        port = random.SystemRandom().randrange(15000, 32000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue


class NatsServer:
    """Starts at once; keeps its port over restarts.

    `config` is text for the server's configuration file: authorization, TLS, limits.
    """

    def __init__(self, directory, config="", port=None, scheme="nats", wait=True):
        program = os.environ.get("NATS_SERVER") or shutil.which("nats-server")
        if not program:
            raise RuntimeError("no nats-server: set NATS_SERVER, or use scripts/test")
        self.program = program
        self.port = port or free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.url = f"{scheme}://{self.address}"
        self._config = path = directory / f"nats-{self.port}.conf"
        self.configure(config)
        self.log = directory / f"nats-{self.port}.log"
        self.pid_file = directory / f"nats-{self.port}.pid"
        self._command = [program, "--config", str(path), "--addr", "127.0.0.1", "--port", str(self.port)]
        self._command += ["--log", str(self.log), "--pid", str(self.pid_file)]
        self.process = None
        if wait:
            self.start()

    def start(self, speaks_first=True):
        """Waits until the server greets; one that wants TLS before it speaks is taken at its open port."""
        self._speaks_first = speaks_first
        self.process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        eventually(self._answers, f"nats-server listens on {self.address}")

    def configure(self, config):
        """Writes the configuration, which a running server reads at SIGHUP."""
        self._config.write_text(config)

    def _answers(self):
        # It is asked once, because it may end between two questions.
        code = self.process.poll()
        if code == NOT_IN_THE_BROKER:
            self.process = None
            pytest.skip("the embedded broker has nothing of this kind")
        if code is not None:
            log = self.log.read_text()[-2000:] if self.log.exists() else "it wrote no log"
            raise AssertionError(f"nats-server ended with {code}: {log}")
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                return not self._speaks_first or connection.recv(5) == b"INFO "
        except OSError:
            return False

    def stop(self):
        """Ends the server; the port stays reserved for `start`."""
        if self.process is None:
            return
        self.process.send_signal(signal.SIGCONT)
        self.process.kill()
        self.process.wait(timeout=10)
        self.process = None

    def freeze(self):
        """The server stops reading and writing, but its connections stay open. It has stopped when this returns."""
        self.process.send_signal(signal.SIGSTOP)
        eventually(lambda: proc.stopped(self.process.pid), "the server has stopped")

    def thaw(self):
        self.process.send_signal(signal.SIGCONT)
