"""Values in the codec's own binary form: for arrays that would be too large as JSON, and for what is secret."""

from __future__ import annotations

import hashlib
import mmap
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from unseen.codec import Buffer, decode, encode
from unseen.data.atomic import whole_file
from unseen.errors import DataError, RemoteProtocolError

M = TypeVar("M")

_DIGEST_CONTEXT = b"unseen/packed/1\0"


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """One message of ``codec`` as it is kept; two are equal if their bytes are. It may be secret, so it is not shown.

    Neither ``of`` nor ``write`` copies the message's arrays, and what was read lies in the file until it is used.
    """

    parts: tuple[Buffer, ...] = field(repr=False)

    @classmethod
    def of(cls, content: object) -> Packed:
        """Return a message packed; its arrays are shared, and must not change any more."""
        return cls(tuple(encode(content)))

    def unpack(self, kind: type[M]) -> M:
        """Return the message, which is of type ``kind``; its arrays are read-only.

        Raises:
            DataError: It is another message, or of another version of this one.
        """
        frame = self.parts[0] if len(self.parts) == 1 else b"".join(self.parts)
        try:
            return decode(kind, frame, sender="an artifact")
        except RemoteProtocolError as error:
            raise DataError(f"{error}: run the step again that made it") from error

    @property
    def size(self) -> int:
        """Number of bytes."""
        return sum(memoryview(part).nbytes for part in self.parts)

    @property
    def digest(self) -> str:
        """SHA-256 of the bytes, as 64 hexadecimal digits."""
        state = hashlib.sha256(_DIGEST_CONTEXT)
        for part in self.parts:
            state.update(part)
        return state.hexdigest()

    def write(self, path: Path) -> None:
        """Write the message to a file that only its owner may read; it is there whole or not at all.

        Raises:
            DataError: The file cannot be written.
        """
        with whole_file(path) as file:
            for part in self.parts:
                file.write(part)

    @classmethod
    def read(cls, path: Path) -> Packed:
        """Return what ``write`` put at ``path``; it is mapped into memory, not read.

        Raises:
            DataError: It cannot be read.
        """
        try:
            with path.open("rb") as file:
                return cls((memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)),))
        except (OSError, ValueError) as error:  # ValueError: the file is empty
            raise DataError(f"{path} is missing or damaged: delete its folder and run the flow again") from error

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Packed) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)
