"""What real model servers send: every case of provider_cases, as it was recorded and cut at odd places."""


import pytest

from support import provider_cases
from support.daemon import API_KEY, Daemon
from support.replay_server import CasePlayer, ReplayServer

pytestmark = pytest.mark.any_server

CASES = {case_id: provider_cases.load(case_id) for case_id in provider_cases.all_ids()}


def token(case_id, variant):
    """A name for what belongs to one case alone: its provider, its place on the server, its session and folder."""
    return f"c{list(CASES).index(case_id)}-{variant}"


@pytest.fixture(scope="module")
def replay():
    server = ReplayServer()
    yield server
    server.close()


def configured(directory, nats_server, bus, replay, providers, keys=()):
    """A daemon that runs, with the settings that the cases count on."""
    daemon = Daemon(directory, nats_server.url, bus)
    daemon.write_agent_file("settings.json", provider_cases.MANIFEST["settings"])
    daemon.write_agent_file("models.json", {"providers": providers})
    daemon.write_agent_file("auth.json", {name: {"type": "api_key", "key": API_KEY} for name in keys})
    # The hosts of other providers are played by the same server, which is their proxy.
    daemon.environment |= {"HTTP_PROXY": replay.url, "http_proxy": replay.url, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    return daemon.start()


def ended(daemon):
    daemon.close()
    assert "panicked" not in daemon.log_text()
    assert API_KEY not in daemon.log_text()


@pytest.fixture(scope="module")
def daemon(tmp_path_factory, nats_server, bus, replay):
    """One for all cases with a provider of their own."""
    providers = {}
    for case_id, case in CASES.items():
        for variant in provider_cases.variants(case) if "provider" not in case else ():
            name = token(case_id, variant)
            url = provider_cases.base_url(case, replay.base_url(name))
            model = provider_cases.model_of(case)
            providers[name] = {"baseUrl": url, "api": case["api"], "apiKey": f"{API_KEY}-{name}", "models": [model]}
    found = configured(tmp_path_factory.mktemp("cases"), nats_server, bus, replay, providers)
    yield found
    ended(found)


@pytest.fixture
def daemon_of(request, tmp_path, nats_server, bus, replay):
    """Gives the daemon of a case: one of its own where it uses a built-in provider, which has one base URL at a time."""
    made = []

    def get(case, name):
        if "provider" not in case:
            return request.getfixturevalue("daemon"), f"{name}/{provider_cases.model_of(case)['id']}", name
        provider = case["provider"]
        url = provider.get("baseUrl")
        override = {provider["name"]: {"baseUrl": url or replay.base_url(name)}}
        made.append(configured(tmp_path / "own", nats_server, bus, replay, override, [provider["name"]]))
        place = url.split("/")[2].split(":")[0] if url else name
        return made[-1], f"{provider['name']}/{case['model']['id']}", place

    yield get
    for daemon in made:
        ended(daemon)


RUNS = [
    pytest.param(case_id, variant, id=f"{case_id}-{variant}")
    for case_id, case in CASES.items()
    for variant in provider_cases.variants(case)
]


@pytest.mark.parametrize(("case_id", "variant"), RUNS)
def test_case(daemon_of, replay, tmp_path, case_id, variant):
    case, name = CASES[case_id], token(case_id, variant)
    daemon, spec, place = daemon_of(case, name)
    player = CasePlayer(provider_cases.FOLDER / case_id, case, case_id if variant == "odd" else None)
    replay.mount(place, player)
    logged = len(daemon.log)
    try:
        faults = provider_cases.play(daemon, player, case, spec, name, tmp_path / "folder")
    except AssertionError as failed:
        faults = [f"it could not be played to its end: {failed}"]
    if faults:
        log = "\n".join(daemon.log[logged:])
        shown = "\n  ".join(faults)
        pytest.fail(f"{case_id}: {case['why']}\n  {shown}\n{player.report()}\n--- log\n{log}", pytrace=False)
