"""Fixtures. Each worker has one NATS server and one caller's connection; each test has its own daemon and model."""

import signal

import pytest

from support.bus import Bus
from support.certificates import Certificates
from support.cli import Cli
from support.daemon import API_KEY, Daemon
from support.fake_bridge import FakeBridge
from support.fleet import Fleet
from support.model_server import ModelServer
from support.nats_server import NatsServer

# A shell without job control has what it runs in the background ignore SIGINT, which every child would inherit.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def nats_server(tmp_path_factory):
    server = NatsServer(tmp_path_factory.mktemp("nats"))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def certificates(tmp_path_factory):
    return Certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="session")
def bus(nats_server):
    connection = Bus(nats_server.url)
    yield connection
    connection.close()


@pytest.fixture
def own_server(tmp_path):
    """Makes NATS servers of the test's own, which it may configure, stop and start."""
    made = []

    def make(config="", **options):
        directory = tmp_path / f"server{len(made)}"
        directory.mkdir()
        made.append(NatsServer(directory, config, **options))
        return made[-1]

    yield make
    for server in made:
        server.stop()


@pytest.fixture
def own_bus():
    """Connects further callers."""
    made = []

    def make(url, **options):
        made.append(Bus(url, **options))
        return made[-1]

    yield make
    for connection in made:
        connection.close()


@pytest.fixture
def model():
    server = ModelServer()
    yield server
    server.close()


@pytest.fixture
def new_daemon(request, tmp_path, nats_server, bus, model):
    """Makes daemons that are not started yet, on the worker's server unless told otherwise."""
    made = request.node.daemons = []

    def make(server_url=None, bus=bus, **options):
        directory = tmp_path / f"daemon{len(made)}"
        made.append(Daemon(directory, server_url or nats_server.url, bus, model.url, **options))
        return made[-1]

    yield make
    for daemon in made:
        daemon.close()
        # Holds for every test: a daemon neither panics nor writes a key down.
        assert "panicked" not in daemon.log_text()
        assert API_KEY not in daemon.log_text()


@pytest.fixture
def daemon(new_daemon):
    """A daemon that runs and uses the scripted model."""
    return new_daemon().start()


@pytest.fixture
def fleet(new_daemon, own_server, own_bus, model, tmp_path):
    server = own_server(f"jetstream {{ store_dir: '{tmp_path}/store' }}")
    return Fleet(server, own_bus(server.url), new_daemon, model)


@pytest.fixture
def cli(tmp_path):
    """Calls of pi-bridge, with a bridge directory of the test's own."""
    found = Cli(tmp_path / "bridge", tmp_path)
    yield found
    found.close()


@pytest.fixture
def new_bridge(cli):
    """Makes fake sessions and daemons in that directory."""
    made = []

    def make(name="0123456789", **row):
        made.append(FakeBridge(cli.directory, name, **row))
        return made[-1]

    yield make
    for bridge in made:
        bridge.close()


@pytest.fixture
def bridge(new_bridge):
    """One fake session."""
    return new_bridge()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """Puts the daemons' logs beside a failure."""
    outcome = yield
    report = outcome.get_result()
    if report.when == "call" and report.failed and "new_daemon" in item.fixturenames:
        for number, daemon in enumerate(getattr(item, "daemons", [])):
            report.sections.append((f"daemon {number}", daemon.log_text()))
