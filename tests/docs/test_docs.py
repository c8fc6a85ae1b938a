"""The documentation is true: examples run, links resolve, all that is installed is described, nothing is stale."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from types import ModuleType

import pytest
import yaml

import unseen.errors
from unseen.cli import main as cli
from unseen.component import installed_components
from unseen.data.demo import make_parties, write_parties
from unseen.errors import UnseenError
from unseen.flow.graph import build_graph
from unseen.flow.spec import parse_flow, read_flow
from unseen.node.app import PartyConfig
from unseen.rounds.building import Built
from unseen.rounds.program import Program
from unseen.trust.agreement import Agreement

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!`)!?\[[^\]]*\]\(([^)\s]+)\)")


def blocks(path: Path, language: str) -> list[str]:
    return [text for kind, text in BLOCK.findall(path.read_text(encoding="utf-8")) if kind == language]


def section(path: Path, title: str) -> str:
    _, found, rest = path.read_text(encoding="utf-8").partition(f"\n## {title}\n")
    assert found, f"{path} has no section {title}"
    return rest.partition("\n## ")[0]


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_reference", ROOT / "tools" / "make_reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# --- examples run ----------------------------------------------------------------------------------------------------


def test_the_python_example_of_the_readme_trains_a_model() -> None:
    example, _ = blocks(ROOT / "README.md", "python")
    done = subprocess.run([sys.executable, "-c", example], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    # One random split of some 1,900 people: mean 0.72, standard deviation 0.025; a model of nothing has 0.5.
    assert 0.6 < float(done.stdout) < 0.85
    statements = [line for line in example.splitlines() if line.strip()]
    assert len(statements) <= 15


def test_the_example_scripts_are_the_examples_of_the_readme() -> None:
    for name, example in zip(("credit", "digits"), blocks(ROOT / "README.md", "python"), strict=True):
        _, _, body = (ROOT / "examples" / f"{name}.py").read_text(encoding="utf-8").partition('"""\n\n')
        assert body == example
        assert len([line for line in example.splitlines() if line.strip()]) <= 15


EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
FLOWS = [path for path in EXAMPLES if "\nsteps:" in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("path", FLOWS, ids=lambda path: path.stem)
def test_sample_flows_are_valid(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli.app(["validate", str(path)], standalone_mode=False)
    assert "can run in the order" in capsys.readouterr().out


@pytest.mark.parametrize("path", [path for path in EXAMPLES if path not in FLOWS], ids=lambda path: path.stem)
def test_sample_programs_are_valid(path: Path) -> None:
    assert Built(Program.load(path)).process.name


def test_programs_and_code_of_the_guide_to_horizontal_learning_are_true(capsys: pytest.CaptureFixture[str]) -> None:
    page = DOCS / "guides" / "horizontal.md"
    whole, *sections = blocks(page, "yaml")
    assert Built(Program.parse(whole)).process.name == "FedAvg"
    for text in sections:
        changed = {**yaml.safe_load(whole), **yaml.safe_load(text)}
        program = Program.parse(json.dumps(changed).replace('"1e-5"', "1e-5"))
        assert program.model.name == "perceptron"
        assert program.privacy or Built(program).process.name
    (example,) = blocks(page, "python")
    exec(compile(example, page.name, "exec"), {})  # noqa: S102  # our own documentation
    assert capsys.readouterr().out.startswith("accuracy 0.")
    simulated, real = blocks(DOCS / "guides" / "horizontal_tables.md", "yaml")
    assert Program.parse(simulated).of_tables
    assert Built(Program.parse(real)).deployed.name.startswith("Horizontal boosting, program")


def test_the_credit_flow_runs_and_its_second_run_reuses_everything(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_parties(tmp_path, rows=1500)
    command = ["run", str(ROOT / "examples" / "credit.yaml"), "--workspace", str(tmp_path / "work"), "--json"]
    for party in ("bank", "partner"):
        command += ["--table", f"{party}.customers={tmp_path / party}.csv"]
    cli.app(command, standalone_mode=False)
    first = json.loads(capsys.readouterr().out)
    assert first["reused"] == []
    # Some 300 people are tested on: mean 0.71, standard deviation 0.04; a model of nothing has 0.5.
    assert first["documents"]["evaluate.evaluation at bank"]["result"]["auc"] > 0.55
    cli.app(command, standalone_mode=False)
    second = json.loads(capsys.readouterr().out)
    assert second["reused"] == list(read_flow(ROOT / "examples" / "credit.yaml").steps)


def test_the_tutorial_shows_the_flow_that_is_in_the_examples() -> None:
    shown = next(text for text in blocks(DOCS / "tutorial.md", "yaml") if "steps:" in text)
    assert parse_flow(shown) == read_flow(ROOT / "examples" / "credit.yaml")


def test_flows_in_the_reference_are_valid() -> None:
    (flow,) = (parse_flow(text) for text in blocks(DOCS / "reference" / "flow.md", "yaml"))
    build_graph(flow, installed_components())
    for example in blocks(DOCS / "reference" / "flow.md", "python"):
        exec(compile(example, "flow.md", "exec"), {})  # noqa: S102  # our own documentation


def test_the_certificates_of_the_tutorial_are_made_as_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = [text for text in blocks(DOCS / "tutorial.md", "python") if "transport.tls" in text]
    authority, ask, certify, check = (compile(text, "tutorial.md", "exec") for text in found)
    monkeypatch.chdir(tmp_path)
    for code in (authority, ask, certify):
        exec(code, {})  # noqa: S102  # our own documentation
    (tmp_path / "partner.pem").rename("identity/certificate.pem")
    shutil.copy("authority.pem", "identity/authority.pem")
    exec(check, {})  # noqa: S102
    assert capsys.readouterr().out == "partner\n"
    assert (tmp_path / "identity" / "key.pem").stat().st_mode & 0o077 == 0


def test_party_files_of_the_tutorial_are_read_and_fit_each_other(tmp_path: Path) -> None:
    texts = [text for text in blocks(DOCS / "tutorial.md", "yaml") if text.startswith("party:")]
    sides = []
    for number, text in enumerate(texts):
        path = tmp_path / f"{number}.yaml"
        path.write_text(text, encoding="utf-8")
        sides.append(PartyConfig.read(path))
    bank, partner = sides
    assert bank.job == partner.job
    assert bank.peers[partner.party] is not None
    assert partner.peers[bank.party] is None
    assert str(bank.peers[partner.party]).rpartition(":")[2] == str(partner.listen).rpartition(":")[2]


@pytest.fixture
def toy_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Install the guide's component as a package with an entry point of its own."""
    module = blocks(DOCS / "guides" / "write_a_component.md", "python")[0]
    (entry,) = blocks(DOCS / "guides" / "write_a_component.md", "toml")
    points = tomllib.loads(entry)["project"]["entry-points"]["unseen.components"]
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package" / "__init__.py").touch()
    (tmp_path / "my_package" / "completeness.py").write_text(module, encoding="utf-8")
    info = tmp_path / "my_package-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1\n", encoding="utf-8")
    lines = ["[unseen.components]", *(f"{name} = {target}" for name, target in points.items())]
    (info / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    installed_components.cache_clear()
    yield tmp_path
    installed_components.cache_clear()
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_package"]:
        del sys.modules[name]


def test_the_component_of_the_guide_is_found_and_runs(toy_package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (flow,) = (parse_flow(text) for text in blocks(DOCS / "guides" / "write_a_component.md", "yaml"))
    build_graph(flow, installed_components())
    trial = blocks(DOCS / "guides" / "write_a_component.md", "python")[1]
    exec(compile(trial, "write_a_component.md", "exec"), {})  # noqa: S102  # our own documentation
    told = eval(capsys.readouterr().out)  # noqa: S307  # a dictionary that the line above printed
    partner = make_parties(rows=500)["partner"]
    expected = {name: round(partner[name].null_count() / partner.height, 3) for name in partner.columns if name != "id"}
    assert told == expected


# --- everything is described -----------------------------------------------------------------------------------------


def test_generated_pages_are_fresh(reference: ModuleType) -> None:
    stale = [
        str(path.relative_to(ROOT))
        for path, text in reference.pages().items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    assert not stale, f"run `python tools/make_reference.py`; stale: {', '.join(stale)}"


def test_every_component_is_described_with_its_ports_parameters_and_leaks() -> None:
    page = DOCS / "reference" / "components.md"
    overview = (DOCS / "security" / "overview.md").read_text(encoding="utf-8")
    for name, component in installed_components().items():
        text = section(page, name)
        for word in (*component.inputs, *component.outputs, *component.params.model_fields):
            assert f"`{word}`" in text, f"{word} of {name} is not described"
        for leak in component.leaks:
            assert leak.learns in text
            assert leak.learns in overview
        assert f"`{name}`" in overview


def test_every_error_is_described_with_its_exit_code(reference: ModuleType) -> None:
    text = (DOCS / "reference" / "errors.md").read_text(encoding="utf-8")
    kinds = [kind for kind in vars(unseen.errors).values() if isinstance(kind, type) and issubclass(kind, UnseenError)]
    assert len(kinds) >= 13
    for kind in kinds:
        assert re.search(rf"^\| `{kind.__name__}` \|.*\| {reference.exit_code(kind)} \|$", text, re.MULTILINE)


def test_every_command_and_option_is_described(capsys: pytest.CaptureFixture[str]) -> None:
    page = DOCS / "reference" / "cli.md"
    cli.app(["--help"], standalone_mode=False)
    commands = re.findall(r"^ {2}(\w+) ", capsys.readouterr().out.partition("Commands:")[2], re.MULTILINE)
    assert "demo" in commands
    for command in commands:
        text = section(page, command)
        cli.app([command, "--help"], standalone_mode=False)
        options = re.findall(r"^ {2}(--[a-z-]+)", capsys.readouterr().out, re.MULTILINE)
        for option in sorted(set(options) - {"--help"}):
            assert f"`{option}`" in text, f"unseen {command} {option} is not described"


def test_every_setting_of_a_party_is_described() -> None:
    text = (DOCS / "reference" / "party.md").read_text(encoding="utf-8")
    for setting in PartyConfig.model_fields:
        assert re.search(rf"^\| `{setting}` \|", text, re.MULTILINE), f"{setting} is not described"


def test_every_key_of_a_flow_is_described() -> None:
    schema = json.loads((DOCS / "reference" / "flow.schema.json").read_text(encoding="utf-8"))
    text = (DOCS / "reference" / "flow.md").read_text(encoding="utf-8")
    for key in schema["properties"]:
        assert f"| `{key}` |" in text
    for key in schema["$defs"]["StepSpec"]["properties"]:
        assert f"| `steps.*.{key}` |" in text


def test_every_dependency_is_described() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    text = section(DOCS / "reference" / "dependencies.md", "Direct")
    named = set(re.findall(r"^\| ([\w-]+) \| [\d.]+ \|", text, re.MULTILINE))
    assert named == {re.split(r"[<>=\[]", line)[0] for line in project["dependencies"]}
    extras = section(DOCS / "reference" / "dependencies.md", "Extras")
    for line in chain.from_iterable(project["optional-dependencies"].values()):
        assert re.split(r"[<>=\[]", line)[0] in extras


# --- pages hold together ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_internal_links_lead_somewhere(page: Path) -> None:
    text = BLOCK.sub("", page.read_text(encoding="utf-8"))
    for target in LINK.findall(text):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{page.name} links to {target}"
        assert linked.is_relative_to(DOCS) or not page.is_relative_to(DOCS), f"{target} is outside of the site"
        if anchor:
            assert anchor in anchors(linked), f"{page.name} links to {target}"


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as Markdown's table of contents makes them."""
    headings = re.findall(r"^#+ (.+)$", BLOCK.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", text).strip().lower()) for text in headings}


def test_every_page_is_in_the_navigation() -> None:
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert site["strict"] is True
    listed = set(_leaves(site["nav"]))
    assert listed == {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")}


def _leaves(nav: object) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
        return
    for item in nav.values() if isinstance(nav, dict) else nav:
        yield from _leaves(item)


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_the_guide_to_agreements_is_true(capsys: pytest.CaptureFixture[str]) -> None:
    page = DOCS / "guides" / "agreements.md"
    (text,) = blocks(page, "yaml")
    data = {"version": 1, "previous": None, **yaml.safe_load(text)}
    agreement = Agreement.model_validate_json(json.dumps(data, default=lambda moment: moment.isoformat()))
    registry = installed_components()
    for component in agreement.components:
        known = registry[component.name]
        assert (component.version, set(component.outputs)) == (known.version, set(known.outputs))
        assert set(component.bounds) <= set(known.params.model_fields)
    (example,) = blocks(page, "python")
    exec(compile(example, "agreements.md", "exec"), {})  # noqa: S102  # our own documentation
    assert capsys.readouterr().out == blocks(page, "text")[-1]
