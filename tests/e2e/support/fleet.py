"""Several hosts of one owner on one server with JetStream."""

import base64
import json

from .bus import NoResponders, StreamFailed
from .model_script import Gate, Text, ToolCall
from .waiting import eventually

# How long a host's card outlives it, seconds: short, and longer than a busy machine leaves a host without time.
CARD = 2
# The same where no host dies.
LONG_CARD = 8
TOOLS = 3
# What callers are told who shall send it again.
PASSING = ("moved", "host_down", "storage_error")


class Fleet:
    """Hosts on one server. All work in the folder of the first one."""

    def __init__(self, server, bus, new_daemon, model):
        self.server, self.bus, self.new_daemon, self.model = server, bus, new_daemon, model
        self.hosts = []

    def host(self, **config):
        number = len(self.hosts)
        owner = {"owner": self.hosts[0].owner} if self.hosts else {}
        daemon = self.new_daemon(self.server.url, bus=self.bus, **owner)
        daemon.config |= {"fleet": True, "fleetHost": f"h{number}", "fleetCardTime": CARD, "heartbeatInterval": 1, **config}
        self.hosts.append(daemon)
        return daemon

    def start(self, count=2, **config):
        for _ in range(count):
            self.host(**config).start()
        self.cwd, self.log = self.hosts[0].cwd, self.hosts[0].cwd / "calls"
        return self

    def session(self, name, body, **fields):
        return self.hosts[0].session(name, body, workspace="shared", **fields)

    def has(self, daemon, name):
        return (daemon.state_dir / f"{name}.json").exists()

    def owner_of(self, name):
        """The one host that has a session."""
        return eventually(lambda: next((host for host in self.hosts if self.has(host, name)), None), f"{name} is somewhere")

    def others(self, owner):
        return [host for host in self.hosts if host is not owner]

    def say(self, name, text):
        """The answer to a prompt, which is sent again where nobody was there or the session is on its way."""

        def answer():
            try:
                return self.hosts[0].prompt(name, text).text()
            except NoResponders:
                return None
            except StreamFailed as failed:
                assert failed.word in PASSING, failed
                return None

        return eventually(answer, f"{name} answers")

    def refusal(self, daemon, name):
        """What a host tells who asks it for a session that waits for another host."""

        def refused():
            try:
                return daemon.prompt(name, "again").failure()
            except NoResponders:
                return None

        return eventually(refused, "somebody tells that its host is down")

    def has_card(self, host):
        return bool(self.card_of(host))

    def card_of(self, host):
        """The sequence of a host's card, which grows when it is renewed; 0 if there is none."""
        asked = {"last_by_subj": f"$KV.AGH.{host.owner}.{host.config['fleetHost']}"}
        return self.bus.ask_json("$JS.API.STREAM.MSG.GET.KV_AGH", asked).get("message", {}).get("seq", 0)

    def take_for_gone(self, host):
        """Removes a host's card, as if it had expired, whatever that host makes of its own clock."""
        subject = f"$KV.AGH.{host.owner}.{host.config['fleetHost']}"
        assert self.bus.ask_json("$JS.API.STREAM.PURGE.KV_AGH", {"filter": subject})["purged"] == 1

    def records(self, name):
        """The heads of what is stored of a session, in order."""
        heads, sequence = [], 0
        while True:
            asked = {"next_by_subj": f"ag.log.{self.hosts[0].owner}.{name}", "seq": sequence + 1}
            found = self.bus.ask_json("$JS.API.STREAM.MSG.GET.AGL", asked).get("message")
            if not found:
                return heads
            sequence = found["seq"]
            heads.append(json.loads(base64.b64decode(found["data"]).partition(b"\n")[0]))

    def calls(self):
        return self.log.read_text().split() if self.log.exists() else []

    def script(self, wait_in=None, gate=None):
        """Answers with a tool each, then a last one; the answer of this number waits in the middle."""

        def answer(request):
            done = len(request.tool_results)
            words = [f"{done} ", gate] if done == wait_in and not gate.opened.is_set() else [f"{done} "]
            if done >= TOOLS:
                return [*words, Text("end")]
            return [*words, ToolCall("bash", {"command": f"echo call{done} >> {self.log}"}, id=f"call{done}")]

        self.model.answer(answer)

    def at_work(self, answer, **fields):
        """A session `s` whose turn waits in the middle of its answer of this number; the gate that it waits for, and its stream."""
        gate = Gate()
        self.script(answer, gate)
        stream = self.session("s", "go", **fields)
        stream.until(f"{answer} ")
        return gate, stream
