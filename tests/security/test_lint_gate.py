"""Nothing in ``unseen`` runs code, loads classes, or opens paths, addresses or archives that somebody else names.

Each rule has what it forbids, the modules that may do it all the same with the reason, and an example that it catches.
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import unseen

SOURCE = Path(unseen.__file__).parent
PROJECT = SOURCE.parent.parent
HEARS_OTHERS = ("node.http.", "node.usecases.", "node.letters", "node.mailroom", "trust.", "codec")
"""Where what peers and browsers write is read."""
SECRET = ("crypto.", "protocols.", "trust.", "node.", "privacy.", "transport.", "flow.", "codec", "dialogue")
"""Where randomness is a secret or makes names."""


def dotted(node: ast.expr) -> str:
    """Return a name as it stands; what is called or indexed before the last dot is left out."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "…"


class Module:
    """A file of the package, its name without ``unseen.``, and what it imports and calls."""

    def __init__(self, name: str, text: str) -> None:
        self.name, self.nodes = name, list(ast.walk(ast.parse(text)))
        self.imported: list[tuple[ast.AST, str]] = []
        """Modules and names, dotted."""
        self.aliases: dict[str, str] = {}
        for node in self.walk(ast.Import, ast.ImportFrom):
            prefix = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
            for alias in node.names:
                self.imported.append((node, f"{prefix}{alias.name}"))
                if alias.asname or prefix:
                    self.aliases[alias.asname or alias.name] = f"{prefix}{alias.name}"
        self.called = [(node, self._full(dotted(node.func))) for node in self.walk(ast.Call)]
        """Calls, with the dotted name of what is called; imports by other names are looked through."""

    def walk(self, *kinds: type[ast.AST]) -> Iterator[Any]:
        return (node for node in self.nodes if isinstance(node, kinds))

    def _full(self, name: str) -> str:
        first, dot, rest = name.partition(".")
        return self.aliases.get(first, first) + dot + rest


def module_of(path: Path) -> Module:
    name = ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")
    return Module("" if name == "__init__" else name, path.read_text(encoding="utf-8"))


Found = Iterator[ast.AST]


def imports(*names: str) -> Callable[[Module], Found]:
    """Find imports of modules, of what is in them, and of single names."""
    return lambda module: (
        node for node, found in module.imported if any(f"{found}.".startswith(f"{name}.") for name in names)
    )


def calls(pattern: str) -> Callable[[Module], Found]:
    whole = re.compile(pattern)
    return lambda module: (node for node, name in module.called if whole.fullmatch(name))


def either(*finders: Callable[[Module], Found]) -> Callable[[Module], Found]:
    return lambda module: (node for finder in finders for node in finder(module))


def keyword(call: ast.Call, name: str) -> ast.expr | None:
    return next((given.value for given in call.keywords if given.arg == name), None)


def is_constant(node: ast.expr | None, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def computed_imports(module: Module) -> Found:
    """Find modules that are imported by a name which does not stand there."""
    for node, name in module.called:
        if name.rpartition(".")[2] == "import_module" and not (node.args and isinstance(node.args[0], ast.Constant)):
            yield node
        if name.rpartition(".")[2] == "entry_points":
            yield node


def computed_names(module: Module) -> Found:
    """Find attributes of modules or classes whose name is computed, and what finds classes by walking over them."""
    known = {found.rpartition(".")[2] for _, found in module.imported} | module.aliases.keys()
    for node, name in module.called:
        if name in {"globals", "locals"} or name.endswith(".__subclasses__"):
            yield node
        if name in {"getattr", "vars"} and node.args:
            whose, constant = node.args[0], len(node.args) > 1 and isinstance(node.args[1], ast.Constant)
            if not constant and (isinstance(whose, ast.Call) or (isinstance(whose, ast.Name) and whose.id in known)):
                yield node
    for node in module.walk(ast.Subscript):
        if ast.unparse(node.value) == "sys.modules":
            yield node


def unsafe_yaml(module: Module) -> Found:
    """Find YAML that may make objects: only ``safe_load``, or ``load`` with a loader made from the safe one here."""
    safe = {
        node.name
        for node in module.walk(ast.ClassDef)
        if [ast.unparse(base) for base in node.bases] == ["yaml.SafeLoader"]
    }
    for node, name in module.called:
        if re.fullmatch(r"yaml\.(load|load_all)", name):
            loader = keyword(node, "Loader")
            if not (isinstance(loader, ast.Name) and loader.id in safe):
                yield node
        elif re.fullmatch(r"yaml\.(unsafe|full)_load(_all)?", name):
            yield node


def loading_arrays(module: Module) -> Found:
    for node, name in module.called:
        said = keyword(node, "allow_pickle")
        if not is_constant(said, value=False) and (said is not None or name in {"np.load", "numpy.load"}):
            yield node


def shells(module: Module) -> Found:
    yield from calls(r"os\.(system|popen|exec\w+|spawn\w+|posix_spawn\w*|startfile)|subprocess\.get\w+")(module)
    for node, _ in module.called:
        shell = keyword(node, "shell")
        if shell is not None and not is_constant(shell, value=False):
            yield node


def computed_paths(module: Module) -> Found:
    """Find paths that are put together from anything but words that stand there, where others are heard."""
    if not module.name.startswith(HEARS_OTHERS):
        return
    for node in module.walk(ast.BinOp):
        words = isinstance(node.right, ast.Constant) or ast.unparse(node.right).isupper()
        if isinstance(node.op, ast.Div) and not words and not ast.unparse(node.right).startswith("timedelta("):
            yield node
    yield from calls(r"(.*\.)?(joinpath|with_name|with_suffix)|os\.path\.\w+|open|io\.open|(pathlib\.)?Path")(module)


def weak_randomness(module: Module) -> Found:
    yield from imports("random", "numpy.random.RandomState")(module)
    yield from calls(r"(np|numpy)\.random\.(RandomState|seed|rand\w*|choice|shuffle|permutation|bytes|normal)")(module)
    if module.name.startswith(SECRET):
        yield from imports("numpy.random", "uuid")(module)
        yield from calls(r"(np|numpy)\.random\..*")(module)


@dataclass(frozen=True)
class Rule:
    """What is forbidden, and an example that has to be caught."""

    finds: Callable[[Module], Found]
    bad: tuple[str, ...]
    """Code that breaks the rule, line by line."""
    good: str = ""
    allowed: Mapping[str, str] = field(default_factory=dict)
    """Module → why it may."""
    where: str = "node.http.example"


OWN_WORDS = "the names stand in a table of the module itself"
RULES = {
    "no pickle, in no disguise": Rule(
        imports(
            "pickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "jsonpickle", "copyreg", "dbm"
        ),
        (
            "import pickle",
            "from marshal import loads",
            "import joblib as j",
            "import shelve, json",
            "from pickle import Unpickler",
        ),
        "import json",
    ),
    "no objects between processes but our own": Rule(
        imports("multiprocessing", "concurrent.futures.ProcessPoolExecutor"),
        ("import multiprocessing.connection", "from concurrent.futures import ProcessPoolExecutor"),
        "from concurrent.futures import ThreadPoolExecutor",
        {"rounds.workers": "pipes between a simulation and processes that it forked itself, on one machine"},
    ),
    "no code from text": Rule(
        either(
            calls(r"(builtins\.)?(eval|exec|compile|__import__)"), imports("runpy", "code", "codeop", "imp", "builtins")
        ),
        ("eval(text)", "exec(text)", "compile(text, 'peer', 'exec')", "__import__(name)", "import runpy"),
        "re.compile(text)",
    ),
    "no modules by computed names": Rule(
        computed_imports,
        ("import_module(name)", "importlib.import_module(f'unseen.{name}')", "entry_points(group=name)"),
        "import_module('boto3')",
        {
            "": OWN_WORDS,
            "horizontal": OWN_WORDS,
            "cli.main": "its commands name the modules behind them",
            "cli.remote_commands": "its commands name the modules behind them",
            "rounds.logs": "its two callers name tensorboard and mlflow",
            "node.traces": "its callers name modules of opentelemetry",
            "component.registry": "components are what this machine's administrator installed; flows name them only",
        },
    ),
    "no classes or functions by computed names": Rule(
        computed_names,
        (
            "from unseen import errors\ngetattr(errors, name)",
            "import unseen.errors as kinds\ngetattr(kinds, name)",
            "from unseen.errors import UnseenError\nUnseenError.__subclasses__()",
            "globals()[name]",
            "sys.modules[name]",
            "getattr(import_module('x'), name)",
        ),
        "getattr(self, name); getattr(error, 'strerror', None)",
        {"": OWN_WORDS, "horizontal": OWN_WORDS},
    ),
    "no YAML that makes objects": Rule(
        unsafe_yaml,
        (
            "yaml.load(text)",
            "yaml.load(text, Loader=yaml.FullLoader)",
            "yaml.unsafe_load(text)",
            "class Mine(yaml.Loader): ...\nyaml.load(text, Loader=Mine)",
        ),
        "class Mine(yaml.SafeLoader): ...\nyaml.load(text, Loader=Mine); yaml.safe_load(text)",
    ),
    "no files of PyTorch": Rule(
        calls(r"torch\.(load|save|jit\..*|package\..*|hub\..*)"),
        ("torch.load(path, weights_only=True)", "torch.jit.load(path)", "from torch import load\nload(path)"),
        "module.load_state_dict(state)",
    ),
    "no objects in arrays": Rule(
        loading_arrays,
        ("np.load(path)", "np.load(path, allow_pickle=True)", "np.load(path, allow_pickle=flag)"),
        "np.load(path, allow_pickle=False)",
    ),
    "no archives": Rule(
        either(imports("tarfile", "zipfile"), calls(r"shutil\.(unpack|make)_archive")),
        ("import tarfile", "from zipfile import ZipFile", "shutil.unpack_archive(path)"),
        "import gzip",
        {
            "node.backup": "an administrator's own backup; members are read by name, not extracted",
            "data.federated.cache": "what a user downloaded, of a published SHA-256; one member is read, not extracted",
            "rounds.program_data": "for the exception that NumPy raises over a damaged .npz",
        },
    ),
    "nothing is extracted": Rule(
        calls(r".*\.(extractall|extract)"), ("archive.extractall(folder)", "archive.extract(name)"), "archive.open()"
    ),
    "no shell": Rule(
        shells,
        ("subprocess.run(text, shell=True)", "os.system(text)", "os.execv(path, a)", "subprocess.getoutput(text)"),
        "subprocess.run(words, shell=False)",
    ),
    "no other programs": Rule(
        imports("subprocess", "pty", "asyncio.create_subprocess_exec", "asyncio.create_subprocess_shell", "os.system"),
        ("import subprocess", "from asyncio import create_subprocess_shell"),
        "import os",
        {
            "node.supervisor": "starts `python -m unseen.node.worker`",
            "node.importing": "starts `python -m unseen.node.importing`, itself",
            "demo.nodes": "starts `python -m unseen node start`",
            "demo.processes": "starts `python -m unseen party`",
        },
    ),
    "no foreign code in the process": Rule(
        imports("ctypes", "cffi"),
        ("import ctypes", "from cffi import FFI"),
        "import struct",
        {"crypto.groups": "addresses of two functions of libsodium, which rbcl has loaded"},
    ),
    "nobody is called but by configuration": Rule(
        imports(
            *("requests", "urllib.request", "urllib3", "http.client", "httpx", "httpx2", "aiohttp"),
            *("ftplib", "smtplib", "xmlrpc", "telnetlib"),
        ),
        ("import requests", "from urllib.request import urlopen", "import http.client"),
        "from urllib.parse import urlsplit",
        {
            "client.client": "the address is that of the person at the command line, and redirects are not followed",
            "node.oidc": "the issuer of node.yaml and what its discovery document names, over TLS, without redirects",
        },
    ),
    "sockets are the transport's": Rule(
        imports("socket", "socketserver", "asyncio.open_connection", "asyncio.start_server"),
        ("import socket", "from asyncio import open_connection"),
        "import ssl",
        {
            "node.http.serve": "listens where node.yaml says",
            "node.meeting": "pairing, with the address of an invitation that a person typed in",
            "transport.workers": "a socket in the node's own folder",
            "transport.relay": "the same, from the worker's side",
            "transport.diagnosis": "`unseen doctor`: the address of a partner, as its pairing gave it",
            "demo.nodes": "finds a free port of this machine",
            "demo.processes": "the same",
        },
    ),
    "no addresses in requests": Rule(
        imports(*(f"pydantic.{name}" for name in ("AnyUrl", "AnyHttpUrl", "HttpUrl", "FileUrl", "networks"))),
        ("from pydantic import HttpUrl",),
        "from pydantic import BaseModel",
    ),
    "no paths from what others write": Rule(
        computed_paths,
        (
            "folder / name",
            "folder / job.name",
            "folder / f'{name}.csv'",
            "Path(text)",
            "folder.joinpath(name)",
            "os.path.join(folder, name)",
            "open(name)",
        ),
        "folder / 'upload'; folder / SETUP_FILE",
        {
            "node.usecases.runs": "joins a ProjectId, checked by unseen.ids.Identifier",
            "trust.store": "opens logs in the folder that its owner names",
        },
    ),
    "random is not secret": Rule(
        weak_randomness,
        (
            "import random",
            "from random import choice",
            "np.random.seed(1)",
            "np.random.RandomState(1)",
            "np.random.default_rng()",
            "import uuid",
        ),
        "import secrets; secrets.token_hex(8)",
        {"node.sources.database": "cells of a database may be UUIDs; none is made"},
        where="crypto.example",
    ),
    "no names of files that others can take": Rule(
        calls(r"(tempfile\.|os\.)?(mktemp|tmpnam|tempnam)"), ("tempfile.mktemp()",), "tempfile.mkdtemp()"
    ),
    "no check that -O takes away": Rule(lambda module: module.walk(ast.Assert), ("assert is_signed(frame)",)),
    "no XML": Rule(
        imports("xml", "lxml", "defusedxml", "xmltodict", "bs4", "html.parser"),
        ("import xml.etree.ElementTree as ET", "from lxml import etree"),
        "import html",
    ),
}


@pytest.fixture(scope="module")
def modules() -> list[Module]:
    return [module_of(path) for path in sorted(SOURCE.rglob("*.py"))]


@pytest.mark.parametrize("name", RULES)
def test_the_code_keeps_the_rule(name: str, modules: list[Module]) -> None:
    rule = RULES[name]
    found = [(module.name, ast.unparse(node)) for module in modules for node in rule.finds(module)]
    assert [what for what in found if what[0] not in rule.allowed] == [], name
    assert {module for module, _ in found} == set(rule.allowed), "a module has a permission that it does not need"


@pytest.mark.parametrize("name", RULES)
def test_the_rule_catches_its_bad_examples_and_nothing_good(name: str) -> None:
    rule = RULES[name]
    for bad in rule.bad:
        assert list(rule.finds(Module(rule.where, bad))), bad
    assert not list(rule.finds(Module(rule.where, rule.good)))


def test_every_module_is_looked_at(modules: list[Module]) -> None:
    assert {"node.supervisor", "codec", "cli.main", "node.http.app"} <= {module.name for module in modules}
    for prefix in (*HEARS_OTHERS, *SECRET):
        assert any(module.name.startswith(prefix) for module in modules), prefix


def test_the_linter_has_its_security_rules_and_each_exception_says_why() -> None:
    lint = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]
    assert "S" in lint["select"]
    assert not [code for code in lint["ignore"] if re.fullmatch(r"S\d*", code)]
    for where, codes in lint["per-file-ignores"].items():
        assert not where.startswith("src/") or not [code for code in codes if re.fullmatch(r"S\d*", code)], where
    for path in SOURCE.rglob("*.py"):
        for line in path.read_text(encoding="utf-8").splitlines():
            if "noqa" in line:
                assert re.search(r"# noqa: [A-Z]+\d+(, [A-Z]+\d+)*  \S", line), f"{path.name}: {line.strip()}"
