"""One host that is killed again and again while callers on both wires have it work."""

import collections
import itertools
import json
import random
import signal
import threading
import time

from .agents import prompt_subject
from .bus import ERROR_CODE, ERROR_WORD, RESTART, VOID, NoResponders
from .model_script import Text, ToolCall
from .waiting import eventually

TOOLS = 10
# Writes of a whole turn; a kill falls on one of them, or of the turns of other sessions in between.
WRITES = 45
# How long a caller waits for something new before it looks whether its prompt was lost on the way.
LOOK = 0.5
# Longest time between two signs of progress; a build with debug assertions on a busy machine is slow.
DEADLINE = 60


def progress(request):
    """The prompt that a request is about, and how many of its tools have run."""
    prompt, results = None, 0
    for message in request.body["messages"]:
        blocks = message["content"]
        blocks = [{"type": "text", "text": blocks}] if isinstance(blocks, str) else blocks
        results += sum(block["type"] == "tool_result" for block in blocks)
        if message["role"] == "user" and blocks[-1]["type"] == "text":
            prompt, results = blocks[-1]["text"], 0
    return prompt, results


class Chaos:
    """`callers` is the number of sessions, each of which has one caller and one prompt at a time."""

    # How the streams of callers may end.
    allowed_ends = frozenset({"done", "interrupted"})

    def __init__(self, daemon, model, callers, seed):
        self.daemon, self.model, self.random = daemon, model, random.Random(seed)
        self.names = [f"c{number}" for number in range(callers)]
        self.log = daemon.cwd / "calls"
        self.calls = itertools.count()
        self.starts = 0
        self.keys = itertools.count(1)
        # When the process began that has this key, as long as it has sent no request.
        self.begun = {}
        self.resumed = []
        self.waits = []
        self.ends = collections.Counter()
        self.marks = 0
        # Nobody is to notice anything.
        self.strict = False
        self.faults = []
        self.stop = threading.Event()
        model.answer(self._answer)

    def _answer(self, request):
        """The tools of a turn one after the other, then its end, as far as the conversation has come."""
        # Nobody looks at the requests, whose conversations would fill the memory in the long run.
        self.model.requests.clear()
        begun = self.begun.pop(request.key, None)
        if begun:
            self.resumed.append(time.monotonic() - begun)
        return self._step(*progress(request))

    def _step(self, prompt, results):
        """What the model says when so many tools of a turn have run."""
        if results >= TOOLS:
            return [Text(f"end of {prompt}")]
        call = f"call{next(self.calls)}"
        return [Text(f"{results} "), ToolCall("bash", {"command": f"echo {call} >> {self.log}"}, id=call)]

    def begin(self):
        """The sessions, without a prompt yet."""
        self.daemon.start()
        for name in self.names:
            spawned = {"session_id": name, "cwd": str(self.daemon.cwd), "max_lifetime_s": 0}
            self.daemon.bus.ask_json(f"agents.spawn.pi-exec.{self.daemon.owner}.control", spawned)
        self.files = {name: self._file(name) for name in self.names}

    def _file(self, name):
        path = self.daemon.state_dir / f"{name}.json"
        return eventually(lambda: path.exists() and json.loads(path.read_text())["file"], f"{name} is remembered")

    def _text(self, name):
        with open(self.files[name]) as file:
            return file.read()

    def _story(self, name, text):
        """What became of a prompt, in a few words for each entry of the session's file from it on."""
        after = self._text(name).partition(f'"{text}"')[2].splitlines()[1:]
        entries = [json.loads(line) for line in after if line.endswith("}")]
        return [entry.get("customType") or entry.get("message", entry).get("role") or entry["type"] for entry in entries]

    def _call(self, name):
        """One caller: prompts over alternating wires until told to stop."""
        try:
            for turn in itertools.count():
                if self.stop.is_set():
                    return
                text = f"{name} turn {turn}."
                plain = (turn + int(name[1:])) % 2 == 0
                subject = self.daemon.subject(name) if plain else prompt_subject(self.daemon, name)
                self._prompt(name, subject, text)
        except Exception as error:  # Told with the others.
            self.faults.append(f"{name}: {error!r}")

    def _prompt(self, name, subject, text):
        """One prompt until its stream ends. One that the host did not accept before it died is sent again."""
        heard, sent, stream = "", None, None
        end = time.monotonic() + DEADLINE
        while True:
            assert time.monotonic() < end, f"{text}: no end after {heard!r}, and in its file {self._story(name, text)}"
            if stream is None:
                heard, sent = "", self.starts
                stream = self.daemon.bus.request(subject, text)
            try:
                message = stream.message(LOOK)
            except NoResponders:
                assert not self.strict, f"{text}: nobody is there"
                stream.leave()
                stream = None
                time.sleep(0.05)
                continue
            except AssertionError:
                if self._is_over(name, text):
                    break
                if self.starts > sent and f'"{text}"' not in self._text(name):
                    stream.leave()
                    stream = None
                continue
            end = time.monotonic() + DEADLINE
            headers = message.headers or {}
            if ERROR_CODE in headers:
                heard = None
                word = headers.get(ERROR_WORD) or json.loads(message.data)["error"]
                self.ends[word] += 1
            elif not message.data:
                break
            elif RESTART in headers:
                self.marks += 1
                heard = "" if headers[VOID] == "all" else heard[: -int(headers[VOID])]
            elif not message.data.startswith(b'{"type"'):
                heard += message.data.decode()
            else:
                chunk = json.loads(message.data)
                if chunk["type"] == "response":
                    heard += chunk["data"]
                elif chunk["data"].startswith("restart:"):
                    self.marks += 1
                    heard = ""
        stream.leave()
        if heard is not None:
            self.ends["done"] += 1
            whole = "".join(f"{step} " for step in range(TOOLS)) + f"end of {text}"
            assert self._is_answer(heard, whole), f"{text}: {heard!r}"

    def _is_over(self, _name, _text):
        """The end of a stream was lost on its way."""
        return False

    def _is_answer(self, heard, whole):
        return heard == whole

    def kill(self, at_a_write):
        """Ends the process, at a write of the build for that or at any time, and starts it again."""
        daemon = self.daemon
        if at_a_write:
            eventually(lambda: not daemon.running() or self.faults, "the write has come", timeout=DEADLINE)
            assert not daemon.running(), self.faults
        else:
            time.sleep(self.random.uniform(0, 1.5))
            daemon.signal(signal.SIGKILL)
        daemon.wait_exit()
        if at_a_write:
            self.arm()
        self._start()

    def _start(self):
        """Starts the next process. It has another key, since requests of the one before may still come."""
        key = f"sk-start-{next(self.keys)}"
        models = json.loads((self.daemon.agent_dir / "models.json").read_text())
        for provider in models["providers"].values():
            provider["apiKey"] = key
        self.daemon.write_agent_file("models.json", models)
        self.begun = {key: time.monotonic()}
        try:
            self.daemon.start()
        except AssertionError:
            # A write may come before it answers.
            if self.daemon.running() or "NATS_PI_BRIDGE_FAULT" not in self.daemon.environment:
                raise
        self.starts += 1

    def arm(self):
        """Chooses the write at which the next process dies."""
        # Not so early that nobody could get ahead in between.
        number = self.random.randrange(WRITES // 3, WRITES * max(1, len(self.names) // 2))
        what = self.random.choice(["kill", "kill-after", "torn"])
        self.daemon.environment["NATS_PI_BRIDGE_FAULT"] = f"write:{number}:{what}"

    def run(self, kills, at_a_write):
        """Kills so often; returns the figures."""
        self.begin()
        if at_a_write:
            # Only from here on, since sessions that do not exist cannot be lost.
            self.arm()
            self.daemon.signal(signal.SIGKILL)
            self.daemon.wait_exit()
            self.daemon.start()
        callers = [threading.Thread(target=self._call, args=(name,), name=name) for name in self.names]
        for caller in callers:
            caller.start()
        try:
            for _ in range(kills):
                self.kill(at_a_write)
        finally:
            self.stop.set()
            if at_a_write:
                # The last turns come to their end undisturbed.
                self.daemon.environment.pop("NATS_PI_BRIDGE_FAULT")
                if self.daemon.running():
                    self.daemon.signal(signal.SIGKILL)
                self.daemon.wait_exit()
                self._start()
            for caller in callers:
                caller.join(2 * DEADLINE)
        assert not any(caller.is_alive() for caller in callers), "a caller waits for ever"
        self.check()
        times = [round(took * 1000) for took in sorted(self.resumed)]
        return {
            "kills": kills, "ends": dict(self.ends), "calls": next(self.calls), "starts with work": len(times),
            "ms from a start to the first request, median and 90 %": [times[len(times) * part // 10] for part in (5, 9) if times],
        }

    def replace(self, times):
        """Has new processes take over so often, while everybody works; returns the figures."""
        self.begin()
        self.strict = True
        callers = [threading.Thread(target=self._call, args=(name,), name=name) for name in self.names]
        watch = threading.Thread(target=self._watch, name="watch")
        for thread in [*callers, watch]:
            thread.start()
        took = []
        try:
            eventually(lambda: len(self.daemon.session_files()) == len(self.names), "all work")
            for _ in range(times):
                begun = time.monotonic()
                self.daemon.replace()
                took.append(time.monotonic() - begun)
        finally:
            self.stop.set()
            for thread in [*callers, watch]:
                thread.join(2 * DEADLINE)
        assert not any(caller.is_alive() for caller in callers), "a caller waits for ever"
        self.check()
        waits, took = sorted(self.waits), sorted(took)
        return {
            "replaced": times, "ends": dict(self.ends), "marks": self.marks, "calls": next(self.calls),
            "s until the old one is gone, median and longest": [round(took[len(took) // 2], 2), round(took[-1], 2)],
            "looks": len(waits),
            "ms until a session answers, median, 99 % and longest": [
                round(waits[len(waits) * part // 1000] * 1000, 1) for part in (500, 990)
            ] + [round(waits[-1] * 1000)],
        }

    def _watch(self):
        """How long it takes a session to answer, as long as there is work."""
        try:
            for name in itertools.cycle(self.names):
                if self.stop.is_set():
                    return
                begun = time.monotonic()
                self.daemon.inspect(name)
                self.waits.append(time.monotonic() - begun)
                time.sleep(0.002)
        except BaseException as error:  # Told with the others.
            self.faults.append(f"a look at {name}: {error!r}")

    def check(self):
        """No call ran twice, each prompt was settled once, and each call has its one result."""
        assert not self.faults, "\n".join(self.faults)
        assert set(self.ends) <= self.allowed_ends, self.ends
        ran = self.log.read_text().split()
        twice = [call for call, count in collections.Counter(ran).items() if count > 1]
        assert not twice, f"run twice: {twice}"
        for name in self.names:
            eventually(lambda name=name: not self.daemon.inspect(name)["activeRequest"], "it is idle")
            entries = [json.loads(line) for line in Chaos._text(self, name).splitlines()]
            records = [(entry.get("customType", "").rpartition(".")[2], entry.get("data")) for entry in entries]
            accepted = [data["id"] for kind, data in records if kind == "accepted"]
            settled = [settled for kind, data in records if kind == "settled" for settled in data["ids"]]
            assert sorted(accepted) == sorted(settled), f"{name}: {accepted} {settled}"
            messages = [entry["message"] for entry in entries if entry["type"] == "message"]
            calls = [block["id"] for message in messages if message["role"] == "assistant"
                     for block in message["content"] if block["type"] == "toolCall"]
            results = [message["toolCallId"] for message in messages if message["role"] == "toolResult"]
            assert calls == results, name
