"""Write the generated pages of the documentation: components, command line, errors, JSON Schema, table of leaks.

Usage: python tools/make_reference.py

Everything comes from the code, so that no page can say something else; tests/docs fails when a page is stale. In
docs/security/overview.md only the text between two marks is replaced.
"""

from __future__ import annotations

import inspect
import json
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_type_hints

import typer

from unseen import errors
from unseen.cli.main import EXIT_CODES, app
from unseen.component import Component, Input, Kind, Leak, Output, Params, Registry, installed_components
from unseen.flow.spec import FlowSpec
from unseen.learners.horizontal.compression.registry import CODECS
from unseen.learners.horizontal.neural.registry import AUGMENTS, MODELS
from unseen.learners.horizontal.process import LocalPlan
from unseen.learners.horizontal.robust.registry import AGGREGATORS
from unseen.learners.horizontal.secure_mean import SecureMean
from unseen.learners.horizontal.strategies.registry import STRATEGIES
from unseen.rounds.parameters import REQUIRED, Parameter, parameters
from unseen.rounds.program import Program
from unseen.rounds.tables import LEARNERS

DOCS = Path(__file__).parents[1] / "docs"
OVERVIEW = DOCS / "security" / "overview.md"
BEGIN, END = "<!-- begin: leaks, made by tools/make_reference.py -->", "<!-- end: leaks -->"
NOTICE = "<!-- Made by tools/make_reference.py from the code; changes belong there. -->"


def pages() -> dict[Path, str]:
    """Return every generated file with the text that belongs into it."""
    registry = installed_components()
    reference = DOCS / "reference"
    schema = json.dumps(FlowSpec.model_json_schema(by_alias=True), indent=2, ensure_ascii=False)
    return {
        reference / "components.md": components_page(registry),
        reference / "cli.md": cli_page(),
        reference / "program.md": program_page(),
        reference / "errors.md": errors_page(),
        reference / "flow.schema.json": schema + "\n",
        OVERVIEW: with_leaks(OVERVIEW.read_text(encoding="utf-8"), registry),
    }


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a Markdown table."""
    names = list(head)
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join("| " + " | ".join(_cell(text) for text in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _page(*parts: str) -> str:
    return "\n\n".join([NOTICE, *parts]) + "\n"


# --- components ------------------------------------------------------------------------------------------------------


def components_page(registry: Registry) -> str:
    """Return the reference of all components: ports, parameters, and who learns what."""
    intro = (
        "A component is one kind of step. `unseen components` lists those that are installed, `unseen components NAME` "
        "shows one, `--json` prints it for programs. What each party learns beyond the outputs that it gets is listed "
        "under *Who learns what*; what these words mean, and against whom it holds, is in "
        "[Who learns what, under which assumption](../security/overview.md)."
    )
    kinds_intro = "What may stand at a port. A kind can be used where the more general one is asked for."
    return _page(
        "# Components",
        intro,
        *(_component(component) for component in registry.values()),
        "## Kinds of values",
        kinds_intro,
        table(("kind", "more general kind", "held as"), _kinds(registry)),
    )


def _component(component: Component) -> str:
    ports = [
        *((f"`{name}`", "in", p.kind.name, "all parties", p.about) for name, p in component.inputs.items()),
        *(
            (f"`{name}`", "out", p.kind.name, f"{p.at.value} party" if p.at else "all parties", p.about)
            for name, p in component.outputs.items()
        ),
    ]
    learned = "Nobody learns anything: no message about data is sent."
    if component.leaks:
        learned = table(("who", "learns"), ((who(leak), leak.learns) for leak in component.leaks))
    return "\n\n".join(
        [
            f"## {component.name}",
            f"{component.summary} Version {component.version}.",
            table(("port", "direction", "kind", "at", "what"), ports),
            "**Parameters**",
            _params(component.params),
            "**Who learns what**",
            learned,
        ]
    )


def _params(params: type[Params]) -> str:
    schema = params.model_json_schema()
    rows = [
        (f"`{name}`", _type(schema, field), f"`{_default(params, name)}`", field.get("description", ""))
        for name, field in schema["properties"].items()
    ]
    return table(("parameter", "values", "default", "meaning"), rows) if rows else "None."


def _default(params: type[Params], name: str) -> str:
    """Return the default as JSON writes it."""
    return json.dumps(params.model_fields[name].get_default(call_default_factory=True), default=str)


def _type(schema: Mapping[str, Any], field: Mapping[str, Any]) -> str:
    """Return what a parameter may be, from its JSON Schema."""
    if "$ref" in field:
        field = schema["$defs"][field["$ref"].rpartition("/")[2]]
    choices = [field["const"]] if "const" in field else field.get("enum", [])
    if choices:
        return ", ".join(f"`{choice}`" for choice in choices)
    if field["type"] == "object":
        inner = next(iter(field.get("patternProperties", {}).values()), field.get("additionalProperties", {}))
        return f"mapping to {_type(schema, inner)}"
    words = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    limits = [f"{sign} {field[key]}" for key, sign in words.items() if key in field]
    return ", ".join([field["type"], *limits])


def _kinds(registry: Registry) -> Iterator[tuple[str, str, str]]:
    found: dict[str, Kind] = {}
    for component in registry.values():
        ports: list[Input | Output] = [*component.inputs.values(), *component.outputs.values()]
        found |= {port.kind.name: port.kind for port in ports}
    for name, kind in sorted(found.items()):
        yield f"`{name}`", f"`{kind.general.name}`" if kind.general else "", f"`{kind.type.__name__}`"


def who(leak: Leak) -> str:
    """Return who learns something, and with which parameters."""
    return leak.who + "".join(f", `{name}: {value}`" for name, value in leak.when.items())


def with_leaks(text: str, registry: Registry) -> str:
    """Return a page with the table of all leaks between its marks."""
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    rows = [
        row
        for name, component in registry.items()
        for row in (
            [(f"`{name}`", who(leak), leak.learns) for leak in component.leaks] or [(f"`{name}`", "nobody", "nothing")]
        )
    ]
    return f"{before}{BEGIN}\n\n{table(('component', 'who', 'learns'), rows)}\n\n{END}{after}"


# --- command line ----------------------------------------------------------------------------------------------------


def cli_page() -> str:
    """Return the reference of all commands with their arguments and options."""
    intro = (
        "`unseen --help` lists the commands, `unseen COMMAND --help` shows one. `unseen --version` prints the version. "
        "`--install-completion` and `--show-completion` set up completion in your shell. A failed command ends with "
        "one message on standard error and an [exit code](errors.md#exit-codes) of its own."
    )
    groups = (_group(info.typer_instance) for info in app.registered_groups)
    return _page("# Command line", intro, *(_command(info) for info in app.registered_commands), *groups)


def _group(group: typer.Typer) -> str:
    """Return the section of a command that has commands of its own."""
    name = str(group.info.name)
    commands = (_command(info, within=f"{name} ") for info in group.registered_commands)
    return "\n\n".join([f"## {name}", str(group.info.help), *commands])


def _command(info: Any, *, within: str = "") -> str:
    callback = info.callback
    shown_name = info.name or callback.__name__
    hints = get_type_hints(callback, include_extras=True)
    rows, usage = [], [f"unseen {within}{shown_name}", "[OPTIONS]"]
    for name, parameter in inspect.signature(callback).parameters.items():
        info = next(item for item in hints[name].__metadata__ if isinstance(item, typer.models.ParameterInfo))
        written = _written(name, info)
        required = parameter.default is inspect.Parameter.empty
        default = "required" if required else _shown(parameter.default)
        if isinstance(info, typer.models.ArgumentInfo):
            usage.append(written if required else f"[{written}]")
        elif required:
            usage.append(f"{written} {name.upper()}")
        rows.append((f"`{written}`", default, info.help or ""))
    summary = inspect.getdoc(callback) or ""
    head = [f"##{'#' if within else ''} {within}{shown_name}", summary, f"```text\n{' '.join(usage)}\n```"]
    return "\n\n".join([*head, table(("argument or option", "default", "meaning"), rows)] if rows else head)


def _written(name: str, info: Any) -> str:
    """Return how people write an argument or option."""
    if isinstance(info, typer.models.ArgumentInfo):
        return str(info.metavar or name.upper())
    return str((info.param_decls or [f"--{name.replace('_', '-')}"])[0])


def _shown(default: object) -> str:
    return "" if default is None or default is False else f"`{default}`"


# --- programs ---------------------------------------------------------------------------------------------------------


def program_page() -> str:
    """Return the reference of programs of horizontal learning: all sections, and all that can be named in them."""
    intro = (
        "A program says what is learnt, from whose examples, and how: one YAML or JSON file for `unseen learn`, "
        "`unseen serve` and `unseen attend`, and for Python (`unseen.rounds.program.Program`). The "
        "[guide](../guides/horizontal.md) shows one at work. A key that is not listed here is refused, with its line. "
        "Server and clients have to agree on everything but `data` (of tables, the label), `rounds` and "
        "`evaluate_every`; with noise that is worked out, on `rounds` as well."
    )
    named: list[tuple[str, str, Mapping[str, Callable[..., object]]]] = [
        ("Models", "`model` names one and gives its parameters beside the name.", MODELS),
        (
            "Augmentations",
            "`model.augment` has some by name: with parameters, or a number for the first one.",
            AUGMENTS,
        ),
        (
            "Strategies",
            "`strategy` names one and gives its parameters, those of local training among them. `clients` is how many "
            "there are, if it is not said.",
            STRATEGIES,
        ),
        (
            "Learners of tables",
            "`model` names one in place of a network, and there is no strategy. `columns` are the features: all "
            "columns but the label and the client's if it is not said; a server and its real clients need it. "
            "`clients` is a cohort's size if it is not said.",
            LEARNERS,
        ),
        ("Robust rules", "`robust` names one.", AGGREGATORS),
        ("Codecs", "`compression` names one; `feedback` may stand beside its parameters.", CODECS),
        (
            "Secure aggregation",
            "`aggregation: {secure: true, …}` has these beside it. `clients` is a cohort's size if it is not said.",
            {"secure": SecureMean},
        ),
    ]
    return _page(
        "# Programs",
        intro,
        "## Sections",
        table(("key", "values", "default", "meaning"), _program_keys()),
        *(part for title, about, known in named for part in (f"## {title}", about, _constructors(known))),
    )


def _program_keys() -> Iterator[tuple[str, str, str, str]]:
    schema = Program.model_json_schema()
    for key, field in schema["properties"].items():
        inner = _definition(schema, field)
        own = "" if "properties" in inner else _program_type(field)
        about = field.get("description") or inner.get("description", "")
        yield f"`{key}`", own, _program_default(schema, field, key), about
        for name, value in inner.get("properties", {}).items():
            default = _program_default(inner, value, name)
            yield f"`{key}.{name}`", _program_type(value), default, value.get("description", "")


def _definition(schema: Mapping[str, Any], field: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what a key's section looks like; the key itself if it is no section."""
    for one in (field, *field.get("anyOf", ())):
        if "$ref" in one:
            found: Mapping[str, Any] = schema["$defs"][one["$ref"].rpartition("/")[2]]
            return found
    return field


def _program_type(field: Mapping[str, Any]) -> str:
    if isinstance(field.get("additionalProperties"), dict):
        return f"mapping to {_program_type(field['additionalProperties'])}"
    choices = [one for one in field.get("anyOf", (field,)) if one.get("type") != "null"]
    return " or ".join(_program_type(one) if "additionalProperties" in one else _type({}, one) for one in choices)


def _program_default(schema: Mapping[str, Any], field: Mapping[str, Any], name: str) -> str:
    if name in schema.get("required", ()):
        return "required"
    return "" if field.get("default") is None else f"`{json.dumps(field['default'])}`"


def _constructors(known: Mapping[str, Callable[..., object]]) -> str:
    rows = []
    for name, constructor in sorted(known.items()):
        about = (inspect.getdoc(constructor) or "").split("\n\n")[0]
        given = parameters(constructor)
        shared = [field for field in LocalPlan.__dataclass_fields__ if field in given]
        words = [f"`{key}`{_given(one)}" for key, one in given.items() if key not in shared or len(shared) == 1]
        rows.append((f"`{name}`", "; ".join([*words, *(["local training"] if len(shared) > 1 else [])]), about))
    found = table(("name", "parameters", "what"), rows)
    if not any("local training" in row[1] for row in rows):
        return found
    plan = "; ".join(f"`{key}`{_given(one)}" for key, one in parameters(LocalPlan).items())
    return f"{found}\n\n*Local training*: {plan}."


def _given(one: Parameter) -> str:
    if one.default is REQUIRED:
        return ", required"
    plain = isinstance(one.default, bool | int | float | str | tuple)
    return f" = {json.dumps(one.default)}" if plain else ""


# --- errors ----------------------------------------------------------------------------------------------------------


def error_types() -> dict[str, type[errors.UnseenError]]:
    """Return every error class by name, in the order of the module."""
    return {
        name: kind
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, errors.UnseenError)
    }


def errors_page() -> str:
    """Return the reference of errors and exit codes."""
    intro = (
        "Every error that Unseen raises on purpose is an `UnseenError`; its type says whose fault it is. A message "
        "names the party, file, line or column at fault, what was expected, what was found, and what to do. Notes "
        "below it say at which party and in which step it happened."
    )
    tree = textwrap.dedent((errors.__doc__ or "").partition("::")[2]).strip("\n").partition("\n\n")[0]
    rows = [
        (f"`{name}`", f"`{kind.__bases__[0].__name__}`", inspect.getdoc(kind) or "", str(exit_code(kind)))
        for name, kind in error_types().items()
    ]
    peers = (
        "When a party stops, its peers are told the step, the type of the error and its message, at most 500 "
        "characters, and raise `PeerFailed`. Two kinds of messages stay at home: those of `DataError`, since they may "
        "quote places in a table, and those of unexpected errors; peers are told only that there was one."
    )
    codes = (
        "0: done. 1: the job failed, was refused by a peer, or was stopped. 2: the request is wrong, including unknown "
        "options. 3: a policy refused it. 4: a peer is out of reach or cannot be authenticated."
    )
    return _page(
        "# Errors and exit codes",
        intro,
        f"```text\n{tree}\n```",
        table(("type", "is a", "meaning", "exit code"), rows),
        "## What peers are told",
        peers,
        "## Exit codes",
        codes,
    )


def exit_code(kind: type[errors.UnseenError]) -> int:
    """Return the exit code of the command line after an error of this type."""
    return next(code for wanted, code in EXIT_CODES if issubclass(kind, wanted))


def main() -> None:
    """Write all generated pages."""
    for path, text in pages().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
