"""Deployment files as commands that run here: each container's or unit's own environment, with its folders mapped.

The files stay as they are. Only absolute paths change, since this machine has no /venv, /data or /etc/share-worker of
the worker: a `Places` says which folder here stands for which one there.
"""

import asyncio
import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.commands import ROOT, Ended, environment, finish
from tests.leaks import leak

PROGRAMS = Path(sys.executable).parent
"""Where this environment's `share-worker` and `python` are."""

Yaml = Any  # what a YAML file holds; its shape is what the tests look at


@dataclass(frozen=True)
class Places:
    """Which folder of this machine stands for which folder of a container or host."""

    folders: Mapping[str, Path]

    def here(self, text: str) -> str:
        """Replace the folders in a value, a URL or a shell line."""
        for there, here in self.folders.items():
            text = re.sub(rf"(?<![\w.]){re.escape(there)}(?![\w-])", str(here), text)
        return text


@dataclass(frozen=True)
class Command:
    """What a deployment runs: the words, all of its environment, and the working directory."""

    words: Sequence[str]
    environment: Mapping[str, str]
    folder: Path

    def but(self, *words: str, **settings: str) -> "Command":
        """The same with other words after the program, if there are any, and more settings."""
        return Command([self.words[0], *words] if words else self.words, {**self.environment, **settings}, self.folder)

    async def start(self) -> asyncio.subprocess.Process:
        """Start it, with the program that its own PATH names."""
        program = shutil.which(self.words[0], path=self.environment.get("PATH"))
        assert program, f"no {self.words[0]} in {self.environment.get('PATH')}"
        return await asyncio.create_subprocess_exec(
            program,
            *self.words[1:],
            env=environment(**self.environment),
            cwd=self.folder,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    async def run(self) -> Ended:
        """Run it to its end."""
        return await finish(await self.start())

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[httpx.AsyncClient]:
        """Run `serve`, on a free port, and give its pages while it is ready; then stop it as a manager would."""
        process = await self.but(HTTP_PORT="0").start()
        try:
            url = await _address_of(process)
            async with httpx.AsyncClient(base_url=url) as pages:
                yield pages
            process.terminate()
            ended = await finish(process)
            assert ended.code == 0, ended
        finally:
            if process.returncode is None:
                process.kill()
                await process.communicate()


async def _address_of(process: asyncio.subprocess.Process) -> str:
    """Where `serve` answers, as its log says, once it has started."""
    assert process.stderr is not None
    url, lines = "", []
    while line := (await process.stderr.readline()).decode():
        assert leak(line) is None
        lines.append(line)
        event = json.loads(line) if line.startswith("{") else {}
        if event.get("event") == "serve.listening":
            url = re.sub(r"//[^/]*:", "//127.0.0.1:", event["url"])
        if event.get("event") == "serve.started":
            return url
    raise AssertionError("".join(lines))


# Containers


@dataclass(frozen=True)
class Image:
    """What the Dockerfile's last stage leaves to a container."""

    environment: Mapping[str, str]
    entrypoint: Sequence[str]
    command: Sequence[str]
    folder: str
    health: Sequence[str]

    def command_with(self, words: Sequence[str] | None, settings: Mapping[str, str], places: Places) -> Command:
        """What a container of the image runs, with a deployment's words (None: the image's) and settings."""
        merged = {**self.environment, **settings}
        here = {name: places.here(value).replace("$PATH", os.environ["PATH"]) for name, value in merged.items()}
        return Command(
            [*self.entrypoint, *(self.command if words is None else words)], here, Path(places.here(self.folder))
        )


def image() -> Image:
    """Read the Dockerfile."""
    text = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text()).split("\nFROM ")[-1]

    def last(instruction: str) -> str:
        found: list[str] = re.findall(rf"^{instruction} +(.*)$", text, re.MULTILINE)
        return found[-1]

    assignments = [word for line in re.findall(r"^ENV +(.*)$", text, re.MULTILINE) for word in shlex.split(line)]
    return Image(
        environment=dict(word.split("=", 1) for word in assignments),
        entrypoint=json.loads(last("ENTRYPOINT")),
        command=json.loads(last("CMD")),
        folder=last("WORKDIR"),
        health=json.loads(last("HEALTHCHECK").partition("CMD ")[2]),
    )


# systemd


@dataclass(frozen=True)
class Unit:
    """The settings of a service that decide what runs, in their order; a drop-in or systemd-run adds to them."""

    name: str
    settings: Sequence[tuple[str, str]]

    def values(self, name: str) -> list[str]:
        """All values of a setting."""
        return [value for setting, value in self.settings if setting == name]

    def command(self, places: Places) -> Command:
        """What systemd runs: Environment, then EnvironmentFile over it, and a copy of each credential."""
        credentials = Path(places.here(f"/run/credentials/{self.name}"))
        credentials.mkdir(parents=True, exist_ok=True)
        for value in self.values("LoadCredential"):
            name, _, path = value.partition(":")
            shutil.copy(places.here(path), credentials / name)
        settings = {"CREDENTIALS_DIRECTORY": str(credentials)}
        for value in self.values("Environment"):
            name, _, content = value.partition("=")
            settings[name] = places.here(content.replace("%d", str(credentials)))
        for value in self.values("EnvironmentFile"):
            file = Path(places.here(value.removeprefix("-")))
            if file.exists() or not value.startswith("-"):
                settings |= environment_file(file.read_text())
        for value in self.values("StateDirectory"):
            Path(places.here(f"/var/lib/{value}")).mkdir(mode=0o700, parents=True, exist_ok=True)
        (words,) = self.values("ExecStart")
        (folder,) = self.values("WorkingDirectory")
        return Command(shlex.split(places.here(words)), settings, Path(places.here(folder)))


def unit(file: Path) -> Unit:
    """Read the [Service] part of a unit."""
    service = file.read_text().partition("[Service]\n")[2].partition("\n[")[0]
    lines = [line.partition("=") for line in service.splitlines() if line and not line.startswith("#")]
    return Unit(file.name, [(name, value) for name, _, value in lines])


def transient_unit(words: Sequence[str]) -> Unit:
    """The unit that `systemd-run` makes of its command line."""
    name, settings = "run.service", []
    rest = list(words)
    while rest[0].startswith("--"):
        option, _, value = rest.pop(0).removeprefix("--").partition("=")
        match option:
            case "unit":
                name = f"{value}.service"
            case "property":
                setting, _, content = value.partition("=")
                settings.append((setting, content))
            case "setenv":
                settings.append(("Environment", value))
            case "quiet" | "collect" | "wait" | "pty" | "pipe":
                pass
            case other:
                raise AssertionError(other)
    return Unit(name, [*settings, ("ExecStart", shlex.join(rest))])


def environment_file(text: str) -> dict[str, str]:
    """The settings in an env file, as systemd and Compose read those that we write."""
    lines = [line.partition("=") for line in text.splitlines() if line and not line.startswith("#")]
    return {name: value[1:-1] if value[:1] == value[-1:] == "'" else value for name, _, value in lines}


def host(root: Path) -> Places:
    """A folder tree that stands for a host."""
    folders = ("etc", "opt", "usr/local", "var/lib", "srv", "run/credentials")
    return Places({f"/{name}": root / name for name in folders})


# Documents


def blocks(language: str, page: str, heading: str = "") -> list[str]:
    """The code blocks of a page in docs, or of its section with a heading of the third level."""
    text = (ROOT / "docs" / f"{page}.md").read_text()
    if heading:
        (text,) = re.findall(rf"^### {re.escape(heading)}\n(.*?)(?=^##|\Z)", text, re.MULTILINE | re.DOTALL)
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)
