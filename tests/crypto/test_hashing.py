"""``expand_message_xmd`` against the vectors of RFC 9380."""

import json
from pathlib import Path
from typing import Any

import pytest

from unseen.crypto.hashing import expand_message_xmd
from unseen.errors import UsageError

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "expand_message_xmd_sha512.json").read_text())


@pytest.mark.parametrize("case", VECTORS["tests"], ids=lambda case: f"{case['message'][:8]}-{case['length']}")
def test_rfc_vectors(case: dict[str, Any]) -> None:
    found = expand_message_xmd(case["message"].encode(), VECTORS["dst"].encode(), case["length"])
    assert found.hex() == case["uniform_bytes"]


def test_all_ten_vectors_are_there() -> None:
    assert sorted(case["length"] for case in VECTORS["tests"]) == [32] * 5 + [128] * 5


@pytest.mark.parametrize("length", [1, 63, 64, 65, 255 * 64])
def test_every_admitted_length(length: int) -> None:
    assert len(expand_message_xmd(b"message", b"tag", length)) == length


@pytest.mark.parametrize("length", [-1, 0, 255 * 64 + 1])
def test_other_lengths_are_refused(length: int) -> None:
    with pytest.raises(UsageError, match=f"asked for {length}"):
        expand_message_xmd(b"message", b"tag", length)


def test_the_tag_separates() -> None:
    assert expand_message_xmd(b"message", b"tag", 32) != expand_message_xmd(b"message", b"tah", 32)
    assert expand_message_xmd(b"", b"x" * 255, 32) != expand_message_xmd(b"x", b"x" * 254, 32)


@pytest.mark.parametrize("dst", [b"", b"x" * 256])
def test_tags_that_the_rfc_excludes_are_refused(dst: bytes) -> None:
    with pytest.raises(UsageError, match=f"1 to 255 bytes, found {len(dst)}"):
        expand_message_xmd(b"message", dst, 32)
