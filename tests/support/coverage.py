"""A pytest plugin that measures branch coverage: `COVERAGE_DIR=folder pytest -n 2 -p tests.support.coverage`.

`python -m tests.support.coverage FOLDER MINIMUM` reports which branches all processes together took. It ends with
status 1 if they are less than `MINIMUM` percent.

Each process of pytest-xdist that runs tests writes a file into the folder. If PYTHONPATH has the folder
`tests/support/measured`, so do commands and the local cloud that tests start as processes.

Each branch of an `if`, a loop and a `match` begins with a statement that sets an item of a list, which takes some
nanoseconds. The processes of a run compile a module once for all. Without Python 3.12's `sys.monitoring`, coverage.py
traces each line, and Slipcover changes the code of each function again in each process: a fifth of the tests' time.
"""

import _imp
import ast
import builtins
import json
import marshal
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("services", "core", "localcloud", "app_tier", "web_tier", "ami", "client/fleetsight_client", "scripts")
_FOLDERS = tuple(f"{ROOT}/{source}/" for source in SOURCES)
_PACKAGES = ("/site-packages/", "/lib/python3")
"""In paths of modules that are not ours, which are most."""

Branch = tuple[int, str]
"""The line of a statement, and which of its branches."""


class _Marks(ast.NodeTransformer):
    """Begins each branch with a statement that sets its item of the list `name`."""

    def __init__(self, name: str) -> None:
        self.name, self.branches = name, list[Branch]()

    def _mark(self, node: ast.stmt | ast.pattern, which: str) -> ast.stmt:
        (statement,) = ast.parse(f"{self.name}[{len(self.branches)}] = 1").body
        self.branches.append((node.lineno, which))
        for each in ast.walk(statement):
            ast.copy_location(each, node)
        return statement

    def _two_ways(self, node: ast.If | ast.For | ast.AsyncFor | ast.While) -> ast.AST:
        node.body.insert(0, self._mark(node, "true"))
        if not (isinstance(node, ast.While) and isinstance(node.test, ast.Constant)):
            node.orelse.insert(0, self._mark(node, "false"))
        return self.generic_visit(node)

    visit_If = visit_For = visit_AsyncFor = visit_While = _two_ways  # noqa: N815 (names of `ast.NodeTransformer`)

    def visit_Match(self, node: ast.Match) -> ast.AST:
        """Mark each case, and that none matches unless the last one always does."""
        for case in node.cases:
            case.body.insert(0, self._mark(case.pattern, "case"))
        pattern = node.cases[-1].pattern
        while isinstance(pattern, ast.MatchOr):
            pattern = pattern.patterns[-1]
        if node.cases[-1].guard or not isinstance(pattern, ast.MatchAs) or pattern.pattern:
            node.cases.append(ast.match_case(ast.MatchAs(), body=[self._mark(node, "no case")]))
        return ast.fix_missing_locations(self.generic_visit(node))


def marked(source: bytes, name: str) -> tuple[ast.Module, list[Branch]]:
    """Return a module whose branches set their items of the list `name`, and these branches in their order."""
    tree, marks = ast.parse(source), _Marks(name)
    marks.visit(tree)
    return tree, marks.branches


@dataclass
class Measurement:
    """What a process takes of the branches of `SOURCES`, from `begin` on; modules must be imported later.

    Attributes:
        folder: of the run.
        taken: a list for each file, with a 1 for each branch that was taken.
    """

    folder: Path
    taken: dict[str, list[int]] = field(default_factory=dict)

    def begin(self) -> None:
        """Load modules with marks from now on, also those that `python -m` runs."""
        load = SourceFileLoader.get_code

        def get_code(loader: SourceFileLoader, fullname: str) -> CodeType | None:
            path = "" if any(part in loader.path for part in _PACKAGES) else os.path.realpath(loader.path)
            return self._code(path, loader.path) if is_measured(path) else load(loader, fullname)

        SourceFileLoader.get_code = get_code  # type: ignore[method-assign, assignment]

    def _code(self, path: str, imported_as: str) -> CodeType:
        status = Path(path).stat()
        digest = sha256(f"{path} {status.st_mtime_ns} {status.st_size}".encode()).hexdigest()
        name, file = f"_taken_{digest}", self.folder / f"{digest}.code"
        try:
            code, count = marshal.loads(file.read_bytes())  # noqa: S302 (a process of this run has written it)
        except OSError:
            tree, branches = marked(Path(path).read_bytes(), name)
            code, count = compile(tree, path, "exec", dont_inherit=True), len(branches)
            with suppress(OSError):  # of a process that may not write
                write_whole(file, marshal.dumps((code, count)))
        _imp._fix_co_filename(code, imported_as)  # type: ignore[attr-defined]
        # Each module's global names include the built-in ones.
        self.taken[path] = builtins.__dict__.setdefault(name, [0] * count)
        return code  # type: ignore[no-any-return]

    def write(self) -> None:
        """Write what was taken until now."""
        write_whole(self.folder / f"{os.getpid()}.json", json.dumps(self.taken).encode())


def is_measured(path: str) -> bool:
    """Return whether a file is one of `SOURCES` and no test."""
    return path.startswith(_FOLDERS) and "/tests/" not in path.removeprefix(str(ROOT))


def write_whole(file: Path, content: bytes) -> None:
    """Write a file that no reader sees unfinished: a test may kill this process meanwhile."""
    unfinished = file.with_suffix(f".{os.getpid()}.unfinished")
    unfinished.write_bytes(content)
    unfinished.replace(file)


def report(folder: Path) -> Iterator[tuple[str, list[Branch], list[Branch]]]:
    """Yield each file with all of its branches and those that no process took; files that none imported, too."""
    taken: dict[str, list[int]] = {}
    for file in folder.glob("*.json"):
        for path, items in json.loads(file.read_bytes()).items():
            taken[path] = [*map(max, taken.get(path, items), items)]
    for source in SOURCES:
        for path in sorted(map(str, (ROOT / source).rglob("*.py"))):
            if is_measured(path):
                branches = marked(Path(path).read_bytes(), "_")[1]
                missed = [
                    each
                    for each, item in zip(branches, taken.get(path, [0] * len(branches)), strict=True)
                    if not item
                ]
                yield os.path.relpath(path, ROOT), branches, missed


def main(folder: str, minimum: str) -> bool:
    """Print the branches that were missed, and the share of the others; return whether it is too small."""
    branches = missed = 0
    for path, all_of_file, missed_of_file in report(Path(folder)):
        branches, missed = branches + len(all_of_file), missed + len(missed_of_file)
        if missed_of_file:
            lines = ", ".join(f"{line} {which}" for line, which in sorted(missed_of_file))
            print(f"{path}: {len(missed_of_file)} of {len(all_of_file)}: {lines}")  # noqa: T201 - a command
    share = 100 * (branches - missed) / branches
    print(f"{share:.1f} % of {branches} branches were taken; at least {minimum} % must be")  # noqa: T201 - a command
    return share < float(minimum)


# `sitecustomize` loads this file under another name. The main process of pytest-xdist runs no tests.
if __name__ == "tests.support.coverage" and "PYTEST_XDIST_WORKER" in os.environ:
    _measurement = Measurement(Path(os.environ["COVERAGE_DIR"]))
    _measurement.begin()

    def pytest_sessionfinish() -> None:
        """Write before this process reports its end to pytest-xdist, which kills it 10 seconds later."""
        _measurement.write()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
