"""Which part of the worker imports which: the arrows of CONTRIBUTING.md, all of them, and no circle."""

import ast
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parent.parent

WORDS: Final = {"account", "clock", "errors", "outcomes", "text"}
"""Modules of the bottom: all may use them, and they use the standard library only."""

ARROWS: Final = {
    **{word: set[str]() for word in WORDS},
    "logs": set[str](),
    "proxy": set[str](),
    "db": set[str](),
    "linq": {"proxy"},
    "rules": {"db"},
    "settings": {"db", "logs", "proxy", "rules"},
    "chats": {"db", "linq"},
    "ledger": {"db", "rules"},
    "sharing": {"chats", "db", "ledger", "linq", "rules"},
    "questions": {"chats", "db", "ledger", "linq", "rules"},
    "wording": {"db", "ledger", "questions", "rules"},
    "notifications": {"db", "ledger", "logs", "proxy", "questions", "rules"},
    "web": {"chats", "db", "ledger", "linq", "logs", "proxy", "questions", "rules", "sharing", "wording"},
    "simulator": {"web.server"},
    "web.server": set[str](),
    "assembly": {"chats", "db", "linq", "notifications", "rules", "settings", "sharing"},
    "service": {
        *("assembly", "chats", "db", "ledger", "linq", "notifications", "rules", "settings", "sharing"),
        *("web", "web.server"),
    },
    "cli": {
        *("assembly", "chats", "db", "ledger", "linq", "logs", "proxy", "questions", "rules"),
        *("notifications", "service", "settings", "sharing", "simulator", "wording"),
    },
    "__main__": {"cli"},
}
"""What each folder or module of `worker/` may import besides WORDS. One module is apart from its folder."""


def _part(module: str) -> str:
    """The folder or module of ARROWS that a module belongs to; empty for `worker` itself, where the version is."""
    words = module.split(".")[1:]
    apart = ".".join(words[:2])
    return apart if apart in ARROWS else words[0] if words else ""


def _imported(path: Path) -> Iterator[str]:
    """Every module that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module == "worker":
            yield from (f"worker.{name.name}" for name in node.names if name.name != "__version__")
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None, "imports are absolute"
            yield node.module


FILES: Final = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for path in sorted((ROOT / "worker").rglob("*.py"))
    if path != ROOT / "worker" / "__init__.py"
}


@pytest.mark.parametrize("part", sorted({_part(module) for module in FILES}))
def test_every_import_follows_an_arrow(part: str) -> None:
    allowed = WORDS | ARROWS[part] | {part, ""}
    imports = {
        (module, name)
        for module, path in FILES.items()
        if _part(module) == part
        for name in _imported(path)
        if name.split(".")[0] == "worker"
    }
    against = sorted(f"{module} imports {name}" for module, name in imports if _part(name) not in allowed)
    assert not against
    unused = ARROWS[part] - {_part(name) for _, name in imports}
    assert not unused, "an arrow that no import follows is taken out of the list"


def test_no_arrows_make_a_circle() -> None:
    assert list(TopologicalSorter(ARROWS).static_order())


@pytest.mark.parametrize("word", sorted(WORDS))
def test_the_modules_of_the_bottom_use_the_standard_library_only(word: str) -> None:
    tops = {name.split(".")[0] for name in _imported(FILES[f"worker.{word}"])}
    assert tops <= {*sys.stdlib_module_names, "worker"}
