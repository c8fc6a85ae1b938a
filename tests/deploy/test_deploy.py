"""What runs a node elsewhere is read as files: users, ports, paths, commands, secrets, probes. No engine is needed."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator
from configparser import RawConfigParser
from contextlib import nullcontext
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest

from unseen.cli import node_commands
from unseen.clock import SystemClock
from unseen.ids import JobId, PartyId, StepId
from unseen.node.folder import NodeConfig
from unseen.node.http.journal import Answered
from unseen.node.http.metrics import Figures, NodeCollector
from unseen.node.http.services import checks_of
from unseen.node.logs import FIELDS
from unseen.node.oidc import OidcConfig
from unseen.node.settings import from_environment, variable
from unseen.node.watching import Cost, Run
from unseen.trust.agreement import ProjectId
from unseen.version import VERSION

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
GUIDE = (ROOT / "docs" / "guides" / "operations.md").read_text(encoding="utf-8")
NODE_COMMANDS = {(command.name or command.callback.__name__) for command in node_commands.app.registered_commands}
BANK = PartyId("bank")
HOME, PORT = "/var/lib/unseen", 7443
WRITABLE = (f"{HOME}", "/var/cache/unseen")


def instructions() -> list[tuple[str, str]]:
    """Return the instructions of the Dockerfile with their arguments; lines that go on are joined."""
    text = re.sub(r"^#.*\n", "", (DEPLOY / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    lines = [line.strip() for line in re.sub(r"\\\n\s*", "", text).splitlines() if line.strip()]
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines)]


def last_stage() -> list[tuple[str, str]]:
    every = instructions()
    return every[max(place for place, (word, _) in enumerate(every) if word == "FROM") :]


def argument(word: str) -> str:
    """Return the one argument of an instruction of the image that is run."""
    (found,) = [rest for name, rest in last_stage() if name == word]
    return found


def unit(name: str) -> RawConfigParser:
    parser = RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # systemd's names have capitals
    parser.read_string((DEPLOY / name).read_text(encoding="utf-8"))
    return parser


def compose() -> dict[str, dict[str, dict[str, object]]]:
    found: dict[str, dict[str, dict[str, object]]] = yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))
    return found


def manifests() -> dict[str, dict[str, object]]:
    files = ("kubernetes.yaml", "kubernetes-setup.yaml")
    every = [one for name in files for one in yaml.safe_load_all((DEPLOY / name).read_text(encoding="utf-8"))]
    return {one["kind"]: one for one in every}


def pods() -> list[dict[str, object]]:
    known = manifests()
    return [known["StatefulSet"]["spec"]["template"]["spec"], known["Pod"]["spec"]]


def health_checks() -> list[list[str]]:
    (container,) = pods()[0]["containers"]
    probes = [container[f"{kind}Probe"]["exec"]["command"] for kind in ("startup", "liveness", "readiness")]
    return [json.loads(argument("HEALTHCHECK").partition("CMD")[2]), *probes]


# --- the image --------------------------------------------------------------------------------------------------------


def test_the_image_runs_as_nobody_and_holds_nothing_that_builds() -> None:
    assert argument("USER") == "10001:10001"
    assert json.loads(argument("ENTRYPOINT")) == ["unseen"]
    assert json.loads(argument("CMD")) == ["node", "start", "node"]
    assert (argument("WORKDIR"), json.loads(argument("VOLUME"))) == (HOME, [HOME])
    assert argument("EXPOSE") == str(PORT)
    run = argument("RUN")
    assert "pip uninstall" in run
    assert all(f" {tool}" in run for tool in ("pip", "setuptools", "wheel"))
    order = [word for word, _ in last_stage()]
    assert order.index("RUN") < order.index("USER")
    bases = [rest.split()[0] for word, rest in instructions() if word == "FROM"]
    assert len(set(bases)) == 1
    assert re.fullmatch(r"python:3\.\d+-slim-bookworm", bases[0])


def test_the_image_is_made_from_registries_and_what_lies_here() -> None:
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    assert not re.search(r"^ADD|https?://|curl|wget|git clone|apt-get", text, re.MULTILINE)
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    assert ignored[0] == "*"
    for word, rest in instructions():
        for source in rest.split()[:-1] if word == "COPY" and "--from" not in rest else ():
            assert (ROOT / source).exists(), source
            assert f"!{source}" in ignored, source
    assert "--only-binary=:all:" in text
    assert "--constraint requirements/tested.txt" in text


# --- health -----------------------------------------------------------------------------------------------------------


class _Answers(BaseHTTPRequestHandler):
    def do_GET(self) -> None:  # the library's name
        self.send_response({"/healthz": 200, "/readyz": 503}[self.path])
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def port() -> Iterator[int]:
    with HTTPServer(("127.0.0.1", 0), _Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def test_health_checks_ask_the_node_and_tell_its_answer(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    default = node_commands.LOOPBACK.rpartition(":")[2]
    codes = {}
    for program, option, code in {tuple(check) for check in health_checks()}:
        assert (program, option) == ("python", "-c")
        assert code.count(f"'127.0.0.1', {default}") == 1
        asked = code.replace(default, str(port))
        command = (sys.executable, "-I", "-S", "-c", asked)
        codes[re.findall(r"'(/\w+)'", code)[0]] = subprocess.run(command, check=False).returncode
    assert codes == {"/healthz": 0, "/readyz": 1}


# --- compose ----------------------------------------------------------------------------------------------------------


def test_one_port_is_published_and_the_database_is_reached_by_the_node_alone() -> None:
    services = compose()["services"]
    assert {name: service.get("ports") for name, service in services.items()} == {
        "node": [f"{PORT}:{PORT}"],
        "database": None,
    }
    assert services["database"]["networks"] == ["books"]
    assert compose()["networks"]["books"] == {"internal": True}
    node = services["node"]
    assert (node["read_only"], node["cap_drop"]) == (True, ["ALL"])
    assert all("no-new-privileges:true" in service["security_opt"] for service in services.values())
    assert node["volumes"] == [f"node:{HOME}"]
    assert node["build"] == {"context": "..", "dockerfile": "deploy/Dockerfile"}


def test_secrets_are_files_that_the_services_name() -> None:
    found = compose()
    for service in found["services"].values():
        granted = {f"/run/secrets/{name}" for name in service["secrets"]}
        named = {value for value in service["environment"].values() if "/run/secrets/" in value}
        assert named == granted
        assert set(service["secrets"]) <= set(found["secrets"])
    assert all(set(secret) == {"file"} for secret in found["secrets"].values())


@pytest.mark.parametrize("path", sorted(DEPLOY.iterdir()), ids=lambda path: path.name)
def test_no_file_holds_a_secret_or_takes_whatever_is_newest(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert ":latest" not in text
    assert not re.search(r"(?i)(password|passwd|token|secret)\w*\s*[:=]\s*[\"']?[\w+]{12,}[\"']?\s*$", text, re.M)
    assert "PRIVATE KEY" not in text
    for image in re.findall(r"image: (\S+)", text):
        name, _, tag = image.partition(":")
        assert tag == VERSION if name == "unseen-node" else re.fullmatch(r"\d+-bookworm", tag)


# --- systemd ----------------------------------------------------------------------------------------------------------


def test_the_unit_is_hardened_and_starts_the_node() -> None:
    service = unit("unseen-node.service")["Service"]
    assert shlex.split(service["ExecStart"])[1:] == ["node", "start", f"{HOME}/node"]
    assert service["User"] == service["Group"] == "unseen"
    for key in ("NoNewPrivileges", "PrivateTmp", "ProtectHome", "ProtectKernelModules", "RestrictSUIDSGID"):
        assert service[key] == "yes", key
    assert (service["ProtectSystem"], service["CapabilityBoundingSet"]) == ("strict", "")
    assert service["Restart"] == "always"
    assert service["KillMode"] == "mixed"
    assert service["ReadWritePaths"].split() == [HOME]
    assert f"/var/lib/{service['StateDirectory']}" == HOME
    places = re.findall(r"=(/var/\S+)", service["Environment"])
    assert places == [f"/var/cache/{service['CacheDirectory']}"]


def test_the_timer_renews_and_the_node_need_not_be_restarted() -> None:
    renew = unit("unseen-renew.service")["Service"]
    assert shlex.split(renew["ExecStart"])[1:] == ["node", "renew", f"{HOME}/node"]
    assert "ExecStartPost" not in renew
    assert (renew["User"], renew["NoNewPrivileges"], renew["ProtectSystem"]) == ("unseen", "yes", "strict")
    timer = unit("unseen-renew.timer")
    assert (timer["Timer"]["OnCalendar"], timer["Timer"]["Persistent"]) == ("monthly", "yes")
    assert timer["Install"]["WantedBy"] == "timers.target"


# --- Kubernetes -------------------------------------------------------------------------------------------------------


def test_one_replica_behind_one_port() -> None:
    known = manifests()
    assert set(known) == {"PersistentVolumeClaim", "Service", "StatefulSet", "Pod"}
    spec = known["StatefulSet"]["spec"]
    labels = {"app": "unseen-node"}
    assert spec["replicas"] == 1
    assert spec["selector"] == {"matchLabels": labels}
    assert known["Service"]["spec"]["selector"] == labels
    assert spec["template"]["metadata"]["labels"] == known["Pod"]["metadata"]["labels"] == labels
    assert spec["serviceName"] == known["Service"]["metadata"]["name"]
    assert [(port["port"], port["targetPort"]) for port in known["Service"]["spec"]["ports"]] == [(PORT, "partners")]


@pytest.mark.parametrize("pod", pods(), ids=["node", "setup"])
def test_pods_have_no_privilege_and_keep_the_keys_to_themselves(pod: dict[str, object]) -> None:
    security = pod["securityContext"]
    assert (security["runAsNonRoot"], security["runAsUser"], security["fsGroup"]) == (True, 10001, 10001)
    assert security["fsGroupChangePolicy"] == "OnRootMismatch"
    assert pod["automountServiceAccountToken"] is False
    (container,) = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["ports"] == [{"name": "partners", "containerPort": PORT, "protocol": "TCP"}]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounts == {"data": HOME, "tmp": "/tmp"}  # noqa: S108  # a place in the pod
    assert {volume["name"] for volume in pod["volumes"]} == set(mounts)
    claim = manifests()["PersistentVolumeClaim"]["metadata"]["name"]
    assert [v["persistentVolumeClaim"] for v in pod["volumes"] if "persistentVolumeClaim" in v] == [
        {"claimName": claim}
    ]
    assert pod["enableServiceLinks"] is False, "variables of the service would be unknown settings"
    for entry in container.get("env", ()):
        if re.search("PASSWORD|TOKEN|SECRET", entry["name"]):
            assert set(entry["valueFrom"]) == {"secretKeyRef"}, "not in the file"


def test_what_is_set_for_containers_and_services_are_settings_of_a_node() -> None:
    known = {variable(name) for name in NodeConfig.model_fields}
    (container,) = pods()[0]["containers"]
    plain = compose()["services"]["node"]["environment"]
    assert from_environment(NodeConfig, plain)["store"] == "postgresql://unseen@database/unseen"
    assert {entry["name"] for entry in container["env"]} >= {"UNSEEN_NODE_STORE", "UNSEEN_NODE_METRICS_TOKEN"}
    for path in DEPLOY.iterdir():
        assert set(re.findall(r"\bUNSEEN_NODE_[A-Z_]*[A-Z]\b", path.read_text(encoding="utf-8"))) <= known, path.name
    assert set(re.findall(r"\bUNSEEN_NODE_[A-Z_]*[A-Z]\b", GUIDE)) <= known
    assert "node.yaml" not in GUIDE[GUIDE.index("### Docker") : GUIDE.index("## Configuration")], "nobody edits it"


# --- the guide --------------------------------------------------------------------------------------------------------


def rows(heading: str) -> dict[str, list[str]]:
    """Return the cells of the table below this head, by what stands first."""
    lines = GUIDE[GUIDE.index(heading) :].split("\n\n", 1)[0].splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return {first.strip("`| "): rest for first, *rest in cells}


def test_every_setting_is_described_with_its_default() -> None:
    table = rows("| field | variable | default |")
    assert list(table) == list(NodeConfig.model_fields)
    for name, field in NodeConfig.model_fields.items():
        usual = "required" if field.is_required() else field.get_default(call_default_factory=True)
        default = "none" if usual in (None, (), {}) else str(usual)
        assert table[name][:2] == [f"`{variable(name)}`", default], name


def test_every_field_of_a_line_of_the_log_is_described() -> None:
    described = set(re.findall(r"\w+", " ".join(rows("| key | meaning |"))))
    assert set(FIELDS) < described
    assert described - set(FIELDS) == {"time", "level", "logger", "message", "error"}


def test_every_setting_of_an_identity_provider_is_described() -> None:
    table = rows("| field of `oidc` | default |")
    assert set(table) == set(OidcConfig.model_fields)
    for name, field in OidcConfig.model_fields.items():
        usual = "required" if field.is_required() else field.default
        shown = "none" if usual is None else f"`[{', '.join(usual)}]`" if isinstance(usual, tuple) else usual
        assert table[name][0] == shown, name


def test_every_figure_is_described() -> None:
    registry, table = figures(), rows("| figure | labels | meaning |")
    shown = generate_latest(registry).decode()
    named = {line.split()[2] for line in shown.splitlines() if line.startswith("# TYPE") and "_created " not in line}
    assert set(table) == named
    for name, (labels, *_) in table.items():
        found = re.findall(rf"^{name}(?:_sum)?(?:\{{(.*)\}})? ", shown, re.MULTILINE)
        assert set(re.findall(r"`(\w+)`", labels)) == set(re.findall(r"(\w+)=", " ".join(found))), name


def figures() -> CollectorRegistry:
    """Return the figures of a node to which everything has happened once."""
    run = Run(JobId("job"), ProjectId("credit"), 1, {StepId("align"): "psi_join"})
    made = Figures()
    made.answered(Answered("r", "GET", "/healthz", 200, None, 0.0, 1.0))
    made.step_ended(run, StepId("align"), Cost(1.0, 2, 3, reused=False))
    kept = SimpleNamespace(
        jobs=SimpleNamespace(count=lambda states: 1), mail=SimpleNamespace(lengths=lambda: {BANK: 1})
    )
    store = SimpleNamespace(read=lambda: nullcontext(kept), size=lambda: 4096)
    status = SimpleNamespace(partners={BANK: SimpleNamespace(struck=None)}, until=datetime.now(UTC))
    node = SimpleNamespace(status=lambda: status, folder=ROOT)
    made.registry.register(NodeCollector(node, store, SystemClock(), lambda: {BANK: (1, 2)}))  # type: ignore[arg-type]
    return made.registry


def test_every_check_of_readiness_is_described() -> None:
    node = SimpleNamespace(status=None, folder=ROOT)
    assert set(rows("| check of `/readyz` |")) == {"store", *checks_of(node, SystemClock())}  # type: ignore[arg-type]


def test_every_attribute_of_a_span_is_described() -> None:
    code = (ROOT / "src" / "unseen" / "node" / "traces.py").read_text(encoding="utf-8")
    cells = " ".join(cell for (cell,) in rows("| span | attributes |").values())
    described = set(re.findall(r"`((?:unseen|http)\.[\w.]+)`", f"`{cells}`"))
    assert described == set(re.findall(r'"((?:unseen|http)\.[\w.]+)"', code))


def test_commands_and_files_of_the_guide_are_there() -> None:
    used = set(re.findall(r"unseen node (\w+)", GUIDE)) | set(re.findall(r"\bnode node (\w+)", GUIDE))
    assert used <= NODE_COMMANDS
    assert {"init", "invite", "renew", "backup", "restore", "reconcile"} <= used
    named = set(re.findall(r"(?:deploy/|cp deploy/|)((?:unseen|kubernetes)-?\w*\.(?:yaml|service|timer))", GUIDE))
    assert {path.name for path in DEPLOY.iterdir()} - named == {
        "Dockerfile",
        "Dockerfile.dockerignore",
        "compose.yaml",
    }
