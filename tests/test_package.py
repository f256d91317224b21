"""The wheel, which works from any directory, migrations included; and the sdist, from which all can be made."""

import asyncio
import os
import sys
import tarfile
import zipfile
from pathlib import Path

from worker import __version__

ROOT = Path(__file__).parent.parent


async def _run(*words: str, cwd: Path, **variables: str) -> str:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *words,
        cwd=cwd,
        env={"PATH": os.environ["PATH"], **variables},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()
    return out.decode()


async def test_the_wheel_works_from_any_directory(tmp_path: Path) -> None:
    await _run("-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path), cwd=ROOT)
    (wheel,) = tmp_path.glob("linq_share_worker-*.whl")
    installed, elsewhere = tmp_path / "installed", tmp_path / "elsewhere"
    elsewhere.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(installed)  # noqa: S202 -- our own wheel
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"worker"}, "nothing else is installed"
    settings = {"PYTHONPATH": str(installed), "DATABASE_URL": f"sqlite:///{elsewhere / 'new.db'}"}
    where = await _run("-c", "import worker; print(worker.__file__)", cwd=elsewhere, **settings)
    assert where.startswith(str(installed))
    assert await _run("-m", "worker", "--version", cwd=elsewhere, **settings) == f"share-worker {__version__}\n"
    assert "is now at revision" in await _run("-m", "worker", "migrate", cwd=elsewhere, **settings)
    (elsewhere / ".env").write_text("SHARE_CONCURRENCY=none\n")  # of the user, and nothing to the demo's workers
    assert "Nobody was shared with twice." in await _run(
        "-m", "worker", "demo", "--folder", "shown", cwd=elsewhere, **settings
    )


async def test_the_sdist_has_all_that_its_makefile_and_documents_name(tmp_path: Path) -> None:
    await _run("-m", "hatchling", "build", "-t", "sdist", "-d", str(tmp_path), cwd=ROOT)
    (sdist,) = tmp_path.glob("linq_share_worker-*.tar.gz")
    with tarfile.open(sdist) as archive:
        packed = {name.split("/", 1)[1] for name in archive.getnames()}
    folders = ("bench", "deploy", "docs", "migrations", "scripts", "tests", "worker")
    wanted = {path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()}
    wanted |= {path for path in ROOT.iterdir() if path.suffix in {".lock", ".md", ".toml", ".yml"}}
    assert {str(path.relative_to(ROOT)) for path in wanted if path.suffix != ".pyc"} <= packed
    assert not {name for name in packed if Path(name).name == ".env" or name.startswith(".venv")}


def test_the_pinned_requirements_carry_hashes_and_no_addresses() -> None:
    text = (ROOT / "requirements.lock").read_text()
    pins = [line for line in text.splitlines() if "==" in line]
    assert len(pins) > 20
    assert "://" not in text
    assert "--index" not in text
    assert text.count("--hash=sha256:") >= len(pins)


def test_every_dependency_is_pinned() -> None:
    import tomllib  # noqa: PLC0415 -- one test's need

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {dependency.split(">=")[0].split("[")[0].split("<")[0] for dependency in project["dependencies"]}
    lock = (ROOT / "requirements.lock").read_text()
    missing = {name for name in names if f"\n{name}==" not in lock and f"\n{name}[" not in lock}
    assert missing == set()
