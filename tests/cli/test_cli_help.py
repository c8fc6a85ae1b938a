"""Help texts are golden: `UNSEEN_UPDATE_GOLDEN=1 pytest tests/cli` writes them anew, a reviewer reads the change."""

import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from unseen.cli.main import app
from unseen.version import VERSION

GOLDEN = Path(__file__).parent / "golden"
COMMANDS = (
    "attend",
    "clients",
    "components",
    "demo",
    "demo-nodes",
    "doctor",
    "learn",
    "lineage",
    "login",
    "logout",
    "party",
    "report",
    "resume",
    "run",
    "schema",
    "serve",
    "validate",
    "vouch",
)
GROUPS = {
    "agreement": ("check", "key", "new", "show", "sign"),
    "audit": ("show", "verify"),
    "job": ("approve", "cancel", "list", "pause", "propose", "refuse", "report", "results", "resume", "show", "watch"),
    "model": ("list", "save"),
    "node": (
        "backup",
        "init",
        "invite",
        "join",
        "purge",
        "reconcile",
        "renew",
        "restore",
        "revoke",
        "start",
        "status",
    ),
    "partner": ("cancel", "confirm", "invite", "join", "list", "pairings", "strike"),
    "people": ("add", "change", "list", "trail"),
    "project": ("draft", "list", "policy", "revoke", "show", "sign", "template", "trail"),
    "source": ("list", "tables"),
    "table": ("add", "import", "list", "profile", "retire"),
}
PAGES = ("unseen", *COMMANDS, *GROUPS, *(f"{group} {name}" for group, names in GROUPS.items() for name in names))
HEAVY = ("numpy", "polars", "numba", "grpc", "pydantic", "yaml", "cryptography", "plotly", "sqlalchemy", "alembic")


def text_of(*arguments):
    result = CliRunner().invoke(
        app, [*arguments, "--help"], prog_name="unseen", terminal_width=120, max_content_width=120
    )
    assert result.exit_code == 0
    return "\n".join(line.rstrip() for line in result.output.splitlines()) + "\n"


@pytest.mark.parametrize("command", PAGES)
def test_help_is_as_agreed(command):
    found = text_of(*() if command == "unseen" else command.split())
    path = GOLDEN / f"{command.replace(' ', '-')}.txt"
    if os.environ.get("UNSEEN_UPDATE_GOLDEN"):
        path.write_text(found, encoding="utf-8")
    assert found == path.read_text(encoding="utf-8")


def test_every_command_has_a_golden_help_and_a_sentence():
    names = [command.name or command.callback.__name__ for command in app.registered_commands]
    assert sorted(names) == sorted(COMMANDS)
    groups = {
        group.typer_instance.info.name: group.typer_instance.registered_commands for group in app.registered_groups
    }
    found = {name: tuple(sorted(each.name or each.callback.__name__ for each in made)) for name, made in groups.items()}
    assert found == GROUPS
    assert sorted(path.stem for path in GOLDEN.iterdir()) == sorted(page.replace(" ", "-") for page in PAGES)
    for command in [*app.registered_commands, *(each for made in groups.values() for each in made)]:
        assert command.callback.__doc__.endswith(".")


def test_every_option_is_explained():
    for path in GOLDEN.iterdir():
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith("  --"):
                assert re.match(r"  --\S+( / --\S+)?( <.*?>)? {2,}\S", line), f"{path.stem}: {line}"


def test_help_is_quick_and_loads_nothing_heavy():
    code = "\n".join(
        [
            "import sys",
            "from unseen.cli.main import app",
            "sys.argv = ['unseen', '--help']",
            "try: app()",
            "except SystemExit as end: assert not end.code",
            f"print('loaded:', *[name for name in {HEAVY!r} if name in sys.modules])",
        ]
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert "Usage:" in result.stdout
    assert result.stdout.splitlines()[-1] == "loaded:"
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.6


def test_the_version_is_printed(unseen):
    ended = unseen("--version")
    assert (ended.code, ended.out) == (0, f"unseen {VERSION}\n")


def test_without_a_command_there_is_help(unseen):
    ended = unseen()
    assert "Usage:" in ended.out + ended.err
    assert "validate" in ended.out + ended.err


def test_an_unknown_command_is_refused(unseen):
    ended = unseen("rnu")
    assert ended.code == 2
    assert "No such command 'rnu'" in ended.err
    assert "Traceback" not in ended.err
