"""Prints one JSON line: what it costs to look a few people up in a large list.

A part of the list, ``--encode`` items, is really encoded and handed over. If that is the whole list, it is also what is
asked about. Otherwise the catalogue that is asked about is made up: random tags, among which those of the items that
will be found, sorted, in a file that the asker maps; a search cannot tell it from a real one. Asking is real
in either case, between two processes over mutual TLS on loopback, and half of what is asked is found. The asker's
compiled loops are loaded before.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.measure import whole
from benchmarks.parties import ACTIVE, PASSIVE, Part, add_threads, run_parties, stage, use_threads
from unseen.component import Packed
from unseen.crypto.groups import Scalar
from unseen.crypto.oprf import blind, draw_blinds, evaluate, finalise
from unseen.crypto.prg import SEED_BYTES, Prg
from unseen.dialogue import Dialogue
from unseen.ids import PartyId
from unseen.protocols.psi.catalogue import NAME_BYTES, Catalogue, Holding, Terms, as_strings, seal
from unseen.protocols.psi.lookup import Found, answer, look_up, obtain, publish
from unseen.protocols.psi.port import Items, Meeting

_MAX_POINTS = 100_000
_CATALOGUE, _HOLDING = "catalogue.bin", "holding.bin"


def _listed(count: int) -> list[bytes]:
    return [b"person-%d" % number for number in range(count)]


def _asked(count: int, listed: int) -> list[bytes]:
    """Return what is asked: one half from the list, as far as it goes, the other not."""
    found = min(count // 2, listed)
    return [*_listed(found), *(b"stranger-%d" % number for number in range(count - found))]


def _meeting(me: PartyId, prg: Prg) -> Meeting:
    return Meeting(me, (PASSIVE if me == ACTIVE else ACTIVE,), prg, b"benchmark", frozenset({ACTIVE}))


# --- a catalogue that is made up ---------------------------------------------------------------------------------


def make_up(folder: Path, holder: int, payload: int, known: list[bytes]) -> None:
    """Write both sides of a catalogue of so many random tags, and those of ``known``."""
    prg = Prg.fresh()
    terms, key_seed = Terms(prg.bytes(NAME_BYTES), holder, payload, _MAX_POINTS), prg.bytes(SEED_BYTES)
    outputs = evaluate(Scalar.derive(Prg(key_seed)), known)
    tags = np.empty((holder, terms.tag_bytes), np.uint8)
    prg.fill(tags)
    tags[: len(known)] = outputs[:, : terms.tag_bytes]
    order = np.argsort(as_strings(tags)).astype(np.uint32)
    sealed = np.empty((holder, terms.sealed_bytes), np.uint8)
    if payload:
        prg.fill(sealed)
        sealed[: len(known)] = seal(outputs, np.zeros((len(known), payload), np.uint8), terms)
    Packed.of(Catalogue(terms, tags[order], sealed[order])).write(folder / _CATALOGUE)
    Packed.of(Holding(terms, key_seed, order)).write(folder / _HOLDING)


# --- one party's side --------------------------------------------------------------------------------------------


def part(me: PartyId, options: Mapping[str, Any]) -> Part:
    """Return what a party plays: a catalogue of some items, then a question about it or about the one made up."""

    def report(result: Found | None) -> dict[str, Any]:
        return {} if result is None else {"found": len(result.alignment.known())}

    return Part((_asker if me == ACTIVE else _holder)(options), report)


def _holder(options: Mapping[str, Any]) -> Dialogue[None]:
    meeting, encode = _meeting(PASSIVE, Prg.fresh()), options["encode"]
    payloads: NDArray[np.uint8] = np.zeros((encode, options["payload"]), np.uint8)
    holding = yield from stage("offline", publish(Items.of(_listed(encode)), payloads, _MAX_POINTS, meeting))
    if options["folder"]:
        holding = Packed.read(Path(options["folder"]) / _HOLDING).unpack(Holding)
    yield from stage("online", answer(holding, meeting))


def _asker(options: Mapping[str, Any]) -> Dialogue[Found]:
    meeting = _meeting(ACTIVE, Prg.fresh())
    catalogue = yield from stage("offline", obtain(meeting))
    if options["folder"]:
        catalogue = Packed.read(Path(options["folder"]) / _CATALOGUE).unpack(Catalogue)
    items = Items.of(_asked(options["asker"], options["holder"]))
    _warm()
    return (yield from stage("online", look_up(items, catalogue, meeting)))


def _warm() -> None:
    """Load the compiled loops, which takes a process half a second once."""
    items, blinds = Items.of([b"warm"] * 2), draw_blinds(Prg.fresh(), 2)
    items.digests(b"warm")
    finalise(items, blinds, blind(items, blinds))


# --- the line ----------------------------------------------------------------------------------------------------


def measure(options: dict[str, Any]) -> dict[str, Any]:
    """Return the figures.

    Raises:
        SystemExit: The asker did not find what is there, or more.
    """
    with tempfile.TemporaryDirectory(prefix="unseen-benchmark-") as name:
        made_up = options["encode"] < options["holder"]
        if made_up:
            known = [item for item in _asked(options["asker"], options["holder"]) if item.startswith(b"person")]
            make_up(Path(name), options["holder"], options["payload"], known)
        runs = run_parties("benchmarks.psi_lookup:part", {**options, "folder": name if made_up else ""})
    wanted = min(options["asker"] // 2, options["holder"])
    if runs[0].report["found"] != wanted:
        raise SystemExit(f"the asker found {runs[0].report['found']} people, there are {wanted}")
    offline, online = whole(runs, "offline"), whole(runs, "online")
    terms = Terms(bytes(NAME_BYTES), options["holder"], options["payload"], _MAX_POINTS)
    million = options["encode"] / 1e6
    return {
        "found": wanted,
        "made_up": made_up,
        "seconds_online": online.seconds,
        "core_seconds_online": online.core_seconds,
        "core_seconds_online_holder": runs[1].cost("online").core_seconds,
        "bytes_online": online.bytes,
        "seconds_offline_per_million": runs[1].cost("offline").seconds / million,
        "core_seconds_offline_per_million": offline.core_seconds / million,
        "catalogue_bytes": options["holder"] * (terms.tag_bytes + terms.sealed_bytes),
        "peak_rss_mb": max(run.peak_rss_mb for run in runs),
    }


def main() -> None:
    """Print the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--asker", type=int, default=1000, help="people who are looked up")
    parser.add_argument("--holder", type=int, default=100_000, help="people in the list")
    parser.add_argument("--encode", type=int, default=100_000, help="of whom so many at most are really encoded")
    parser.add_argument("--payload", type=int, default=0, help="bytes that come with each of them")
    add_threads(parser)
    asked = parser.parse_args()
    options = {
        "asker": asked.asker,
        "holder": asked.holder,
        "encode": min(asked.encode, asked.holder),
        "payload": asked.payload,
    }
    threads = use_threads(asked.threads)
    figures = {name: _short(value) for name, value in measure(options).items()}
    print(json.dumps({"name": "psi_lookup", **options, "threads": threads, **figures}))


def _short(value: float) -> float:
    return value if isinstance(value, int) else float(f"{value:.4g}")


if __name__ == "__main__":
    main()
