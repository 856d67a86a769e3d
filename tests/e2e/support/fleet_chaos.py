"""Three hosts of one owner that are killed, frozen, drained and cut off while callers on both wires have their sessions work."""

import base64
import collections
import json
import random
import signal
import threading
import time

from .bridge import Bridge
from .chaos import DEADLINE, TOOLS, Chaos, progress
from .nats_server import NatsServer, free_port
from .waiting import eventually

HOSTS = 3


class Servers:
    """One nats-server with JetStream, or three that are one cluster."""

    def __init__(self, directory, count):
        routes = [free_port() for _ in range(count)]
        urls = ", ".join(f"nats://127.0.0.1:{port}" for port in routes)
        self.all = []
        for number, port in enumerate(routes):
            own = directory / f"server{number}"
            own.mkdir()
            config = f"server_name: n{number}\njetstream {{ store_dir: '{own}/store' }}\n"
            if count > 1:
                config += f"cluster {{ name: c, listen: \"127.0.0.1:{port}\", routes: [{urls}] }}\n"
            self.all.append(NatsServer(own, config))
        self.urls = [server.url for server in self.all]

    def stop(self):
        for server in self.all:
            server.stop()

    def start(self):
        for server in self.all:
            if server.process is None:
                server.start()


class FleetChaos(Chaos):
    """`hosts` are not started yet."""

    # Whoever hears one of those that are new here knows that it has to ask again.
    allowed_ends = Chaos.allowed_ends | {"moved", "host_down", "storage_error", "shutting_down", "draining", "busy"}

    def __init__(self, servers, hosts, model, callers, seed):
        super().__init__(hosts[0], model, callers, seed)
        self.servers, self.hosts, self.bus = servers, hosts, hosts[0].bus
        self.random = random.Random(seed)
        # Which host sends requests with which key, and whose request came last for each session that works.
        self.host_of, self.at = {}, {}
        # Sessions whose host died in the middle of work: that host's key, and when.
        self.dead = {}
        # What is stored of each session, and the sequence of the last record of that.
        self.stored = collections.defaultdict(lambda: ["", 0])

    def _answer(self, request):
        self.model.requests.clear()
        now, (prompt, results) = time.monotonic(), progress(request)
        name = prompt.split()[0]
        died = self.dead.get(name)
        if died and died[0] != request.key:
            del self.dead[name]
            if self.host_of[request.key] is not self.host_of[died[0]]:
                self.resumed.append(now - died[1])
        if results >= TOOLS:
            self.at.pop(name, None)
        else:
            self.at[name] = request.key
        return self._step(prompt, results)

    def _start_host(self, host):
        """Starts a host with a key of its own, by which its requests are known."""
        key = f"sk-start-{next(self.keys)}"
        models = json.loads((host.agent_dir / "models.json").read_text())
        for provider in models["providers"].values():
            provider["apiKey"] = key
        host.write_agent_file("models.json", models)
        self.host_of[key], host.key = host, key
        host.start()
        self.starts += 1

    def begin(self):
        for host in self.hosts:
            self._start_host(host)
        for name in self.names:
            stream = self.daemon.session(name, f"{name} begins.", workspace="shared", maxLifetime=0)
            assert stream.text(DEADLINE).endswith(f"end of {name} begins.")

    def _text(self, name):
        """All that is stored of a session's file."""
        kept = self.stored[name]
        subject = f"ag.log.{self.daemon.owner}.{name}"
        while True:
            try:
                asked = {"next_by_subj": subject, "seq": kept[1] + 1}
                found = self.bus.ask_json("$JS.API.STREAM.MSG.GET.AGL", asked, timeout=5)
            except AssertionError:  # The server is away, so that nothing is known.
                time.sleep(0.1)
                continue
            if "message" in found:
                head, _, part = base64.b64decode(found["message"]["data"]).partition(b"\n")
                kept[0] += part.decode(errors="replace") if json.loads(head)["kind"] == "file" else ""
                kept[1] = found["message"]["seq"]
            elif found.get("error", {}).get("code") == 404:
                return kept[0]

    def _is_over(self, name, text):
        """What is under way to a caller when a server dies may be lost, the end of its stream included."""
        if not self.lossy:
            return False
        entries = [json.loads(line) for line in self._text(name).splitlines() if f'"{text}"' in line or ".settled" in line]
        records = [(entry.get("customType", "").rpartition(".")[2], entry.get("data")) for entry in entries]
        ids = {data["id"] for kind, data in records if kind == "accepted" and data["text"] == text}
        return any(ids & set(data["ids"]) for kind, data in records if kind == "settled")

    def _is_answer(self, heard, whole):
        if not self.lossy:
            return heard == whole
        words = iter(whole.split())
        return all(word in words for word in heard.split())

    def owner_of(self, name):
        """The host that the log names, once it has the session."""

        def find():
            found = self.bus.ask_json("$JS.API.STREAM.MSG.GET.AGL", {"last_by_subj": f"ag.log.{self.daemon.owner}.{name}"})
            head = json.loads(base64.b64decode(found["message"]["data"]).partition(b"\n")[0])
            host = next(host for host in self.hosts if host.config["fleetHost"] == head["host"])
            return host if (host.state_dir / f"{name}.json").exists() else None

        return eventually(find, f"{name} is somewhere", timeout=DEADLINE)

    def _file(self, name):
        return json.loads((self.owner_of(name).state_dir / f"{name}.json").read_text())["file"]

    # What happens to them.

    def _some_host(self):
        """A host of some session: one that has come back has none at first."""
        name = self.random.choice(self.names)
        return next((host for host in self.hosts if (host.state_dir / f"{name}.json").exists()), self.hosts[0])

    def kill(self):
        """A host dies; it comes back at once, or when its sessions have gone on elsewhere."""
        host, at_once = self._some_host(), self.random.random() < 0.2
        self.dead |= {name: (host.key, time.monotonic()) for name, key in list(self.at.items()) if key == host.key}
        host.signal(signal.SIGKILL)
        host.wait_exit()
        if at_once:
            self.dead.clear()
        eventually(lambda: not self.dead or self.faults, "its sessions have gone on", timeout=DEADLINE)
        self._start_host(host)

    def freeze(self):
        """A host is stopped, for shorter or longer than it takes the others to go on with its sessions."""
        host, card = self._some_host(), self.daemon.config["fleetCardTime"]
        host.signal(signal.SIGSTOP)
        time.sleep(self.random.uniform(0.2, 1.5 * card + 2))
        host.signal(signal.SIGCONT)
        time.sleep(self.random.uniform(0, 1))

    def drain(self):
        """A host lets all its sessions go to the others, and takes work again."""
        host = self._some_host()
        with Bridge(host.socket) as client:
            client.ask("drain")
            begun = time.monotonic()
            eventually(lambda: not list(host.state_dir.glob("c*.json")) or self.faults, "all have gone", timeout=DEADLINE)
            self.waits.append(time.monotonic() - begun)
            client.ask("undrain")

    def terminate(self):
        """A host is told to end, and started again."""
        host = self._some_host()
        host.signal(signal.SIGTERM)
        assert host.wait_exit(DEADLINE) == 0
        self._start_host(host)

    def outage(self):
        """All servers are away for a while."""
        self.servers.stop()
        time.sleep(self.random.uniform(0.5, 2 * self.daemon.config["fleetCardTime"]))
        self.servers.start()
        self._wait_stream()

    def leader(self):
        """The server that leads the sessions' stream dies, and comes back."""
        leader = self._wait_stream().get("cluster", {}).get("leader")
        server = self.servers.all[int(leader[1:])]
        server.stop()
        time.sleep(self.random.uniform(1, 8))
        server.start()
        self._wait_stream()

    def _wait_stream(self):
        def info():
            try:
                found = self.bus.ask_json("$JS.API.STREAM.INFO.AGL", timeout=2)
            except AssertionError:
                return None
            return found if "state" in found else None

        return eventually(info, "the stream is there", timeout=DEADLINE)

    def run(self, disruptions, alone=None, turns=0):
        """Has these happen in any order, each so often; returns the figures. What a turn costs is looked at before, in so many
        turns, and in as many of a daemon that is no host of a fleet."""
        # What may be lost where a server dies is text on its way: nothing may come twice, or in another order.
        self.lossy = bool(disruptions["outage"] + disruptions["leader"])
        self.begin()
        figures = self._costs(alone, turns) if turns else {}
        plan = [what for what, count in disruptions.items() for _ in range(count)]
        self.random.shuffle(plan)
        callers = [threading.Thread(target=self._call, args=(name,), name=name) for name in self.names]
        for caller in callers:
            caller.start()
        try:
            for what in plan:
                if self.faults:
                    break
                getattr(self, what)()
                self.starts += 1
        finally:
            self.stop.set()
            for caller in callers:
                caller.join(2 * DEADLINE)
        assert not any(caller.is_alive() for caller in callers), "a caller waits for ever"
        self.files = {name: self._file(name) for name in self.names}
        self.check()
        return {
            **figures, **disruptions, "ends": dict(self.ends), "marks": self.marks, "calls": next(self.calls),
            "s from a host's death to a session's first request elsewhere": spread(self.resumed),
            "s until a drained host has no session": spread(self.waits),
        }

    def _costs(self, alone, turns):
        """Records of a turn, and how long its tools take."""
        self._start_host(alone)
        times, records = [], []
        for daemon, fields in ((alone, {}), (self.daemon, {"workspace": "shared"})):
            assert daemon.session("cost", "cost begins.", **fields).text().endswith("end of cost begins.")
            before, begun = self._wait_stream()["state"]["messages"], time.monotonic()
            for turn in range(turns):
                assert daemon.prompt("cost", f"cost {turn}.").text().endswith(f"end of cost {turn}.")
            times.append(round(1000 * (time.monotonic() - begun) / turns / TOOLS, 2))
            records.append((self._wait_stream()["state"]["messages"] - before) / turns)
        daemon.stop_session("cost")
        return {"records of a turn": records[1], "ms of a tool alone and in a fleet": times}


def spread(values):
    """How many there are, the middle one, the one of 99 % and the longest."""
    values = sorted(values)
    return [len(values), *(round(values[min(len(values) - 1, len(values) * part // 100)], 2) for part in (50, 99, 100) if values)]
