"""The files that deploy the worker: well-formed, and true to its settings, commands and metrics."""

import ast
import configparser
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import promql_parser
import pytest
import typer.main
import yaml
from prometheus_client import CollectorRegistry
from typer.core import TyperGroup

from tests import deployments
from tests.test_docs import DOCUMENTS, section
from worker import cli
from worker.service.metrics import Metrics
from worker.settings import SECRETS, Settings

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
KUBERNETES = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
UNITS = sorted(file for file in (DEPLOY / "systemd").iterdir() if file.suffix in {".service", ".timer"})
PROMTOOL = shutil.which("promtool") or shutil.which("promtool", path=Path(sys.executable).parent) or ""
COMMANDS = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined] # the app is a group of commands
KNOWN = {*Settings.model_fields, *(f"{name}_FILE" for name in SECRETS)}
Yaml = Any  # what a YAML file holds; its shape is what these tests look at


def compose() -> Yaml:
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text())


def alerts() -> list[Yaml]:
    (group,) = yaml.safe_load((DEPLOY / "prometheus-alerts.yml").read_text())["groups"]
    return list(group["rules"])


def manifests() -> dict[str, Yaml]:
    """Kubernetes' objects by kind."""
    documents = [document for file in KUBERNETES for document in yaml.safe_load_all(file.read_text())]
    assert len({document["kind"] for document in documents}) == len(documents)
    return {document["kind"]: document for document in documents}


def template(kind: str) -> Yaml:
    """What a Deployment or a CronJob makes its pods of."""
    spec = manifests()[kind]["spec"]
    return (spec["jobTemplate"]["spec"] if kind == "CronJob" else spec)["template"]


def pods() -> Iterator[Yaml]:
    for kind in ("Deployment", "CronJob"):
        yield template(kind)["spec"]


def metric_names() -> set[str]:
    """Every name that a scrape shows."""
    names = set()
    for family in Metrics(CollectorRegistry()).registry.collect():
        ends = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(family.type, [""])
        names |= {family.name + end for end in ends}
    return names


def assert_is_a_command(words: list[str]) -> None:
    """A command line of ours: the command exists, and each of its options."""
    command = COMMANDS[words[0]]
    if isinstance(command, TyperGroup) and len(words) > 1:
        command = command.commands[words[1]]
    options = {option for parameter in command.params for option in parameter.opts} | {"--help"}
    assert {word for word in words[1:] if word.startswith("-")} <= options, words


# Container


def test_the_image_runs_as_nobody_special_from_pinned_parts() -> None:
    text = (ROOT / "Dockerfile").read_text()
    build, final = text.split("\nFROM ")
    assert build.startswith("FROM python:3.13-slim AS build")
    assert final.startswith("python:3.13-slim\n")
    for lock in ("requirements.lock", "requirements-build.lock"):
        assert f"--require-hashes -r {lock}" in build
    assert "pip install" not in final
    assert re.search(r"^USER \d+:\d+$", final, re.MULTILINE)
    assert re.search(r'^ENTRYPOINT \["share-worker"\]$', final, re.MULTILINE), "PID 1 is the worker, not a shell"
    assert re.search(r"^HEALTHCHECK ", final, re.MULTILINE)
    assert "/livez" in final
    (command,) = re.findall(r"^CMD (\[.*\])$", final, re.MULTILINE)
    assert_is_a_command(json.loads(command))


def test_the_image_sets_no_secret_so_that_none_collides_with_a_file_that_holds_it() -> None:
    names = set(deployments.image().environment)
    assert names & KNOWN == {"HTTP_HOST"}
    assert names - KNOWN == {"PATH", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE"}


def test_the_image_is_built_from_named_files_only() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in lines
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert {f"!{name}" for names in copied for name in names.split()} == {
        line for line in lines if line.startswith("!")
    }


def test_compose_is_what_the_compose_specification_says(tmp_path: Path) -> None:
    overrides = [block for page in ("monitoring", "deploy/compose") for block in deployments.blocks("yaml", page)]
    files = [ROOT / "docker-compose.yml"]
    for number, block in enumerate(block for block in overrides if "services:" in block):
        files.append(tmp_path / f"{number}.yml")
        files[-1].write_text(re.sub(r"!(?:reset|override) ", "", block))
    assert len(files) == 3
    looked = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", *files],
        capture_output=True,
        text=True,
        check=False,
    )
    assert looked.returncode == 0, looked.stdout + looked.stderr


def test_compose_names_only_commands_and_settings_that_exist() -> None:
    for name, service in compose()["services"].items():
        if name == "database":
            continue
        assert_is_a_command(service["command"])
        assert set(service.get("environment", {})) <= KNOWN | {"PGPASSWORD"}, name


def test_compose_starts_the_schema_before_the_service_and_the_database_before_both() -> None:
    services = compose()["services"]
    assert services["migrate"]["depends_on"] == {"database": {"condition": "service_healthy"}}
    assert services["serve"]["depends_on"] == {"migrate": {"condition": "service_completed_successfully"}}
    health = services["database"]["healthcheck"]["test"]
    assert health[:4] == ["CMD", "pg_isready", "--host", "127.0.0.1"], (
        "the server that sets up a volume has a socket only"
    )
    assert services["database"]["image"].partition(":")[2].isdigit(), "a pinned major version"
    assert [volume.partition(":")[0] for volume in services["database"]["volumes"]] == ["database"]


def test_compose_gives_the_worker_few_rights_and_time_to_drain() -> None:
    drain = Settings.model_fields["SHARE_DRAIN_SECONDS"].default
    for name, service in compose()["services"].items():
        if name == "database":
            continue
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        if service["command"][0] == "serve":
            assert int(service["stop_grace_period"].removesuffix("s")) > drain


def test_the_demo_of_compose_needs_no_key_and_touches_no_other_data() -> None:
    services = compose()["services"]
    demo = {name: service for name, service in services.items() if service["profiles"] == ["demo"]}
    live = {name: service for name, service in services.items() if service["profiles"] == ["live"]}
    assert set(demo) | set(live) == set(services)
    assert set(demo) == {"simulator", "demo"}
    assert all("${" not in json.dumps(service) for service in demo.values())
    assert demo["demo"]["network_mode"] == "service:simulator", "plain http is for the loopback address only"
    assert demo["demo"]["environment"]["DATABASE_URL"] == demo["simulator"]["environment"]["DATABASE_URL"]
    volumes = {
        name: {volume.partition(":")[0] for volume in service.get("volumes", [])} for name, service in services.items()
    }
    assert not (volumes["demo"] | volumes["simulator"]) & {"database"}
    assert "COMPOSE_PROFILES=live" in (ROOT / ".env.example").read_text()


def test_compose_needs_no_variable_without_a_default() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    assert re.findall(r"\$\{(\w+)(?!\w|:-)", text) == []


# Kubernetes


@pytest.mark.parametrize("kind", sorted({*manifests()} - {"PodMonitor"}))
def test_kubernetes_takes_the_manifests(kind: str) -> None:
    document = manifests()[kind]
    version = kubernetes_validate.latest_version()
    kubernetes_validate.validate(
        document, version.rpartition(".")[0] if version.count(".") > 1 else version, strict=True
    )
    assert document["metadata"]["name"] == "share-worker"


def test_kubernetes_names_only_commands_and_settings_that_exist() -> None:
    for pod in pods():
        (container,) = pod["containers"]
        assert_is_a_command(container["args"])
        assert {variable["name"] for variable in container["env"]} <= KNOWN
        assert {"LINQ_API_KEY_FILE", "DATABASE_URL_FILE"} <= {variable["name"] for variable in container["env"]}
        paths = {variable["value"] for variable in container["env"] if variable["name"].endswith("_FILE")}
        mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
        assert all(any(path.startswith(mount + "/") for mount in mounts) for path in paths)


def test_kubernetes_gives_the_worker_few_rights_and_time_to_drain() -> None:
    uid = int((re.search(r"^USER (\d+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE) or [0, 0])[1])
    for pod in pods():
        assert pod["terminationGracePeriodSeconds"] > Settings.model_fields["SHARE_DRAIN_SECONDS"].default
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == uid
        (container,) = pod["containers"]
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


@pytest.mark.parametrize("kind", ["Deployment", "Service", "PodDisruptionBudget", "PodMonitor"])
def test_kubernetes_selects_the_pods_that_serve_and_not_those_of_the_cronjob(kind: str) -> None:
    selector = manifests()[kind]["spec"]["selector"]
    selected = selector.get("matchLabels", selector).items()
    assert selected <= template("Deployment")["metadata"]["labels"].items()
    assert not selected <= template("CronJob")["metadata"]["labels"].items()


def test_the_service_and_the_monitor_lead_to_the_port_that_serve_opens() -> None:
    (container,) = template("Deployment")["spec"]["containers"]
    (port,) = container["ports"]
    assert port == {"name": "http", "containerPort": Settings.model_fields["HTTP_PORT"].default}
    (of_service,) = manifests()["Service"]["spec"]["ports"]
    assert of_service == {"name": "http", "port": port["containerPort"], "targetPort": port["name"]}
    monitor = manifests()["PodMonitor"]
    assert monitor["apiVersion"] == "monitoring.coreos.com/v1"
    assert set(monitor["spec"]) == {"jobLabel", "selector", "podMetricsEndpoints"}
    assert monitor["spec"]["podMetricsEndpoints"] == [{"port": port["name"], "path": "/metrics", "interval": "30s"}]


def test_the_job_that_the_monitor_makes_is_the_one_of_the_alert_rules() -> None:
    label = manifests()["PodMonitor"]["spec"]["jobLabel"]
    job = template("Deployment")["metadata"]["labels"][label]
    (asked,) = set(re.findall(r'job=~"([^"]*)"', (DEPLOY / "prometheus-alerts.yml").read_text()))
    assert re.fullmatch(asked, job)


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: rule["alert"])
def test_an_alert_looks_at_each_job_by_itself_so_that_two_accounts_are_apart(rule: Yaml) -> None:
    groups = re.findall(r"\b(?:max|sum|count)\b( by \([\w, ]+\))? ?\(", rule["expr"])
    assert set(groups) <= {" by (namespace, job)", " by (namespace)"}
    assert "on()" not in rule["expr"]
    assert "{{ $labels.job }}" in rule["annotations"]["summary"] or "kube_cronjob_" in rule["expr"]


def test_a_disruption_never_blocks_a_node_and_never_takes_all_workers() -> None:
    assert manifests()["PodDisruptionBudget"]["spec"]["maxUnavailable"] == 1
    assert manifests()["Deployment"]["spec"]["replicas"] > 1


# systemd


@pytest.mark.parametrize("file", UNITS, ids=lambda file: file.name)
def test_systemd_units_are_well_formed(file: Path) -> None:
    unit = configparser.RawConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign] # names keep their case, as configparser documents
    unit.read(file)
    assert unit["Unit"]["Description"].startswith("share worker")
    if file.suffix == ".timer":
        assert "OnCalendar" in unit["Timer"]
        assert (file.with_suffix(".service")).exists()
        return
    program, *words = unit["Service"]["ExecStart"].split()
    assert Path(program).name == "share-worker"
    assert_is_a_command(words)
    settings = re.findall(r"^Environment=(\w+)=", file.read_text(), re.MULTILINE)
    assert set(settings) <= KNOWN
    assert int(unit["Service"]["TimeoutStopSec"]) > Settings.model_fields["SHARE_DRAIN_SECONDS"].default


# Watching


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: rule["alert"])
def test_an_alert_asks_for_metrics_that_exist_and_has_a_runbook(rule: Yaml) -> None:
    promql_parser.parse(rule["expr"])
    asked = set(re.findall(r"\bshare_worker_\w+", rule["expr"]))
    assert asked <= metric_names()
    assert asked or "up{" in rule["expr"] or "kube_cronjob_" in rule["expr"]
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    file, _, anchor = rule["annotations"]["runbook"].partition("#")
    headings = re.findall(r"^### (\w+)$", (ROOT / file).read_text(), re.MULTILINE)
    assert rule["alert"] in headings
    assert anchor == rule["alert"].lower()


@pytest.mark.skipif(not PROMTOOL, reason="needs promtool, which scripts/setup.sh fetches where there is apt")
def test_prometheus_takes_the_rules_and_the_documented_scrape_and_alerts_when_it_should(tmp_path: Path) -> None:
    shutil.copy(DEPLOY / "prometheus-alerts.yml", tmp_path)
    scrape, among_containers, alertmanager, beside_the_worker = deployments.blocks("yaml", "monitoring", "`serve`")
    (worker,) = compose()["services"]["serve"]["ports"]
    assert worker.startswith("127.0.0.1:${PUBLISHED_PORT:-8080}:")
    assert '["127.0.0.1:8080"]' in scrape
    added = yaml.safe_load(beside_the_worker)["services"]
    files = ["./prometheus.yml", "./deploy/prometheus-alerts.yml", "./alertmanager.yml"]
    assert [mount.split(":")[0] for service in added.values() for mount in service["volumes"]] == files
    there = yaml.safe_load(among_containers)
    (job,), (receivers,) = there["scrape_configs"], there["alerting"]["alertmanagers"]
    targets = [each["static_configs"][0]["targets"] for each in (job, receivers)]
    assert targets == [["serve:8080"], ["alertmanager:9093"]]
    assert {"serve", "alertmanager"} <= {*compose()["services"], *added}
    routes = yaml.safe_load(alertmanager)
    assert [routes["route"]["receiver"]] == [receiver["name"] for receiver in routes["receivers"]]
    (tmp_path / "prometheus.yml").write_text(scrape)
    (tmp_path / "among_containers.yml").write_text(among_containers)
    (tmp_path / "tests.yml").write_text((ROOT / "tests" / "alerts.yml").read_text())
    checks = (
        ["check", "config", "prometheus.yml"],
        ["check", "config", "among_containers.yml"],
        ["test", "rules", "tests.yml"],
    )
    for words in checks:
        looked = subprocess.run([PROMTOOL, *words], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert looked.returncode == 0, looked.stdout + looked.stderr


def test_every_runbook_entry_belongs_to_an_alert() -> None:
    text = section("Alerts", (ROOT / "docs" / "runbook.md").read_text())
    assert re.findall(r"^### (\w+)$", text, re.MULTILINE) == [rule["alert"] for rule in alerts()]


REASONS = (
    "sharing/calls.py sharing/limits.py sharing/share_pass.py sharing/walk.py ledger/runs.py db/faults.py db/schema.py"
    " questions/troubles.py"
)
"""The modules that say why a pass ended or could not begin, and what needs attention."""


def reasons(module: str) -> Iterator[str]:
    """Each reason in a module as a regular expression: the texts given as a reason, with anything for what differs."""
    for node in ast.walk(ast.parse((ROOT / "worker" / module).read_text())):
        match node:
            case ast.FunctionDef(name="_reason_to_stop" | "_mismatch" | "describe"):
                yield from (pattern(leaf.value) for leaf in ast.walk(node) if isinstance(leaf, ast.Return))
            case ast.Assign(targets=[ast.Name(id="reason" | "msg")], value=ast.JoinedStr() as text):
                yield pattern(text)
            case ast.Assign(targets=[ast.Attribute(attr="stayed_due")], value=ast.BoolOp(values=[*_, text])):
                yield pattern(text)
            case ast.AnnAssign(target=ast.Name(id="hints" | "meanings" | "WHAT_TO_LOOK_AT"), value=ast.Dict() as texts):
                yield from map(pattern, texts.values)
            case ast.AnnAssign(target=ast.Name(id="ASK_LINQ"), value=ast.Constant() as text):
                yield pattern(text)
            case ast.Call(func=ast.Attribute(attr="_end"), args=[ast.JoinedStr() as text]):
                yield pattern(text)
            case ast.keyword(arg="detail" | "reason", value=ast.JoinedStr() | ast.Constant() as text):
                yield pattern(text)


def pattern(text: ast.expr | None) -> str:
    """A text of the source as a regular expression, without the name of the database before it; empty if it is none."""
    parts = text.values if isinstance(text, ast.JoinedStr) else [text]
    texts = [part.value if isinstance(part, ast.Constant) else None for part in parts]
    fixed = [re.escape(part) if isinstance(part, str) else ".+" for part in texts]
    whole = re.sub(r"^the\\ database\\ \.\+:?\\ ", "", "".join(fixed))
    return "" if whole == ".+" else whole


@pytest.mark.parametrize("module", REASONS.split())
def test_the_runbook_explains_every_reason_why_a_pass_ends(module: str) -> None:
    text = (ROOT / "docs" / "runbook.md").read_text()
    found = [reason for reason in reasons(module) if reason]
    assert found
    assert [reason for reason in found if not re.search(reason, text)] == []


def test_the_dashboard_asks_for_metrics_that_exist() -> None:
    dashboard = json.loads((DEPLOY / "grafana.json").read_text())
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    asked = set()
    for panel in dashboard["panels"]:
        assert panel["datasource"]["uid"] == "${datasource}"
        for target in panel["targets"]:
            expression = target["expr"].replace("$__rate_interval", "5m").replace("$job", "share-worker")
            promql_parser.parse(expression)
            asked |= set(re.findall(r"\bshare_worker_\w+", expression))
    assert asked <= metric_names()
    families = {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in metric_names()}
    assert {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in asked} == families, "it shows all there is"


def command_lines(document: str) -> list[str]:
    """The commands of ours in a document's blocks, each without the program's name and a comment."""
    blocks = "\n".join(re.findall(r"```(?:sh|cron)\n(.*?)```", (ROOT / document).read_text(), re.DOTALL))
    return re.findall(r"(?:(?<![\w/.-])|/bin/)share-worker ([a-z]+(?: [^#&\n]*)?)", blocks)


@pytest.mark.parametrize("document", [*filter(command_lines, DOCUMENTS)])
def test_documents_name_only_commands_that_exist(document: str) -> None:
    for line in command_lines(document):
        assert_is_a_command([word for word in line.split() if not word.startswith(("'", '"'))])
    for name in re.findall(r"`share-worker ([a-z]+)", (ROOT / document).read_text()):
        assert name in COMMANDS


def test_the_pages_for_operators_show_commands() -> None:
    pages = {"README.md", "docs/admin.md", "docs/operations.md", "docs/runbook.md", "docs/simulator.md"}
    pages |= {f"docs/deploy/{name}.md" for name in ("compose", "kubernetes", "systemd", "cron")}
    assert pages <= set(filter(command_lines, DOCUMENTS))
