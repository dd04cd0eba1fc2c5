"""The rules of docs/testing.md that hold for every test: no timed assertion, no process in a unit test."""

import ast
import os
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from tests.conftest import ROOT

CLOCKS = frozenset({"monotonic", "perf_counter", "process_time", "thread_time", "elapsed"})
"""Names of `time`, and of a response of requests, from which a test could learn how long something took."""


FAILS_ON_NO_BUSY_MACHINE = {"tests/image/test_boot.py": 1}
"""How many assertions of a file may read a clock: more time passes on a busy machine, and they hold the better."""


def timed_assertions(source: str) -> Iterator[int]:
    """Yield the line of each assertion that reads a clock, or a name that its function has set by one."""
    for scope in ast.walk(ast.parse(source)):
        if isinstance(scope, (ast.FunctionDef, ast.Module)):
            statements = [node for part in scope.body for node in own_statements(part)]
            set_by_a_clock = {
                name.id
                for node in statements
                if isinstance(node, ast.Assign) and reads_a_clock(node.value)
                for target in node.targets
                for name in ast.walk(target)
                if isinstance(name, ast.Name)
            }
            for node in statements:
                if isinstance(node, ast.Assert):
                    names = {each.id for each in ast.walk(node.test) if isinstance(each, ast.Name)}
                    if names & set_by_a_clock or reads_a_clock(node.test):
                        yield node.lineno


def own_statements(node: ast.AST) -> Iterator[ast.AST]:
    """Yield a node and all below it, but for the functions in it, which have names of their own."""
    yield node
    if not isinstance(node, ast.FunctionDef):
        for child in ast.iter_child_nodes(node):
            yield from own_statements(child)


def reads_a_clock(node: ast.AST) -> bool:
    return any(isinstance(each, ast.Attribute) and each.attr in CLOCKS for each in ast.walk(node))


def test_no_test_asserts_how_long_something_took() -> None:
    found: Counter[str] = Counter()
    lines = []
    for file in sorted((ROOT / "tests").rglob("*.py")):
        for line in timed_assertions(file.read_text(encoding="utf-8")):
            found[name := str(file.relative_to(ROOT))] += 1
            lines.append(f"{name}:{line}")
    assert found == FAILS_ON_NO_BUSY_MACHINE, lines


@pytest.mark.parametrize(
    "source",
    [
        "assert time.monotonic() - began < 5",
        "assert 1 < time.perf_counter() - began",
        "assert requests.get(url).elapsed.total_seconds() < 2",
        "took = time.monotonic() - began; assert took < 5",
    ],
)
def test_a_timed_assertion_is_found(source: str) -> None:
    assert list(timed_assertions(source)) == [1]
    assert list(timed_assertions(f"def test() -> None:\n    {source}")) == [2]


@pytest.mark.parametrize("start", [lambda: subprocess.run(["true"], check=True), os.fork], ids=["run", "fork"])
def test_a_process_in_a_unit_test_is_refused_with_the_remedy(start: Callable[[], object]) -> None:
    with pytest.raises(RuntimeError, match=r"in_a_unit_test.* starts a process .*: move it to tests/integration"):
        start()
