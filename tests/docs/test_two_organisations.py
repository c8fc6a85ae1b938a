"""The guide for two organisations is followed, word by word: every command runs, and says what the page shows."""

from __future__ import annotations

import re
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue

import polars as pl
import pytest

from unseen.cli import doctor, node
from unseen.cli import main as cli
from unseen.errors import PeerUnreachable
from unseen.flow.store import Workspace
from unseen.ids import JobId, PartyId
from unseen.node.app import PartyConfig, run_party

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "two_organisations.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"[0-9A-Z]{3}-[0-9A-Z]{3}")
CHANGING = re.compile(r"unseen-\S{20,}|\d{4}-\d\d-\d\d|\d\d:\d\d|\b[0-9a-f]{16}\b|" + CODE.pattern)
FILES = ("node", "party.yaml", "revoked.crl")


class Machines:
    """Runs the commands of both organisations in this process, each with its own folder, screen and keyboard."""

    def __init__(self, root: Path, port: int) -> None:
        self.root = root
        self.places = {"0.0.0.0:7443": f"127.0.0.1:{port}", "bank.example:7443": f"127.0.0.1:{port}"}
        self.screens: dict[str, Queue[str]] = {"bank": Queue(), "partner": Queue()}
        self.keyboards: dict[str, Queue[str]] = {"bank": Queue(), "partner": Queue()}
        self.waiting = threading.Thread()
        self.invitation = ""
        self.jobs: list[PartyConfig] = []

    def say(self, text: str) -> None:
        for line in text.split("\n"):
            self.screens[threading.current_thread().name].put(line)

    def ask(self, prompt: str) -> str:
        self.say(prompt.rstrip())
        return self.keyboards[threading.current_thread().name].get(timeout=20)

    def start(self, who: str, command: str) -> threading.Thread:
        words = [self.places.get(word, word) for word in command.split()[1:]]
        words = [str(self.root / who / word) if place and word in FILES else word for place, word in enumerate(words)]
        words = [self.invitation if word.startswith("unseen-") else word for word in words]
        thread = threading.Thread(target=lambda: cli.app(words, standalone_mode=False), name=who, daemon=True)
        thread.start()
        return thread

    def read(self, who: str, count: int) -> list[str]:
        """Return the next lines on a screen, with the addresses of the page."""
        lines = [self.screens[who].get(timeout=20) for _ in range(count)]
        folder = f"{self.root / who}/"
        return [self._named(line.replace(folder, "")) for line in lines]

    def _named(self, line: str) -> str:
        listens = "listen" in line
        for shown, real in self.places.items():
            if shown.startswith("0.") == listens:
                line = line.replace(real, shown)
        return line


def alike(lines: list[str]) -> list[str]:
    return [CHANGING.sub("#", line) for line in lines]


@pytest.fixture
def machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machines:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    made = Machines(tmp_path, port)
    monkeypatch.setattr(node, "_say", made.say)
    monkeypatch.setattr(doctor, "_print", made.say)
    monkeypatch.setattr("builtins.input", made.ask)
    yaml_blocks = [text for kind, text in BLOCK.findall(GUIDE.read_text(encoding="utf-8")) if kind == "yaml"]
    flow, *parties = yaml_blocks
    for who, ids in (("bank", "abcd"), ("partner", "bcdx")):
        (tmp_path / who).mkdir()
        (tmp_path / who / "flow.yaml").write_text(flow, encoding="utf-8")
        (file,) = (text for text in parties if f"party: {who}\n" in text)
        (tmp_path / who / "party.yaml").write_text(file, encoding="utf-8")
        table = pl.DataFrame({"id": list(ids), "y" if who == "bank" else "x": [0, 1, 1, 0]})
        table.write_csv(tmp_path / who / f"{who}.csv")
    return made


def commands() -> list[tuple[str, str, list[str]]]:
    """Return who runs which command of the page, and what is shown below it."""
    found: list[tuple[str, str, list[str]]] = []
    for kind, text in BLOCK.findall(GUIDE.read_text(encoding="utf-8")):
        for line in text.splitlines() if kind == "console" else ():
            who, prompt, command = line.partition("$ ")
            if prompt and who in ("bank", "partner"):
                found.append((who, command, []))
            else:
                found[-1][2].append(line)
    return found


def test_the_guide_is_followed_from_nothing_to_a_job_and_to_the_end_of_the_relation(machines: Machines) -> None:
    steps = {"party": start_job, "doctor": see_it_broken, "invite": invite, "join": join, "--take": take_list}
    for who, command, shown in commands():
        follow = next((step for word, step in steps.items() if word in command.split()), run)
        follow(machines, who, command, shown)
    assert Workspace(machines.root / "bank" / "workspace").job(JobId("first-1")).state == "finished"
    assert node.Node(machines.root / "bank" / "node").partners.get(PartyId("partner")).struck is not None


def run(machines: Machines, who: str, command: str, shown: list[str]) -> None:
    machines.start(who, command).join(timeout=20)
    assert alike(machines.read(who, len(shown))) == alike(shown), command
    while not machines.screens[who].empty():
        machines.read(who, 1)


def take_list(machines: Machines, who: str, command: str, shown: list[str]) -> None:
    (machines.root / who / "revoked.crl").write_bytes((machines.root / "bank/node/revoked.crl").read_bytes())
    run(machines, who, command, shown)


def invite(machines: Machines, who: str, command: str, shown: list[str]) -> None:
    machines.waiting = machines.start(who, command)
    lines = machines.read(who, len(shown))
    assert alike(lines) == alike(shown)
    machines.invitation = lines[-1]


def join(machines: Machines, who: str, command: str, shown: list[str]) -> None:
    joining = machines.start(who, command)
    lines, texts = machines.read(who, len(shown)), machines.read("bank", 3)
    assert alike(lines) == alike(shown)
    assert alike(texts) == alike(other_side())
    machines.keyboards["bank"].put(CODE.findall(lines[-2])[0])
    machines.keyboards["partner"].put(CODE.findall(texts[-2])[0])
    for thread in (joining, machines.waiting):
        thread.join(timeout=20)
    assert machines.read("bank", 1) == ["partner is a partner: it dials this node"]
    assert machines.read("partner", 1) == ["bank is a partner: this node dials it at bank.example:7443"]


def other_side() -> list[str]:
    texts = [text for kind, text in BLOCK.findall(GUIDE.read_text(encoding="utf-8")) if kind == "text"]
    return next(text for text in texts if "has answered" in text).splitlines()


def start_job(machines: Machines, who: str, command: str, shown: list[str]) -> None:
    machines.jobs.append(PartyConfig.read(machines.root / who / command.rsplit(maxsplit=1)[-1]))
    if len(machines.jobs) == 2:
        with ThreadPoolExecutor(2) as pool:
            assert all(list(result.steps) == ["read", "align"] for result in pool.map(run_party, machines.jobs))


def see_it_broken(machines: Machines, who: str, command: str, shown: list[str]) -> None:
    *words, folder = command.split()[1:]

    def examine() -> None:
        threading.current_thread().name = who
        cli.app([*words, str(machines.root / who / folder)], standalone_mode=False)

    with ThreadPoolExecutor(1) as pool, pytest.raises(PeerUnreachable, match="no link to bank; above is why"):
        pool.submit(examine).result(timeout=20)
    assert machines.read(who, len(shown)) == shown
