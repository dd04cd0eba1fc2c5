"""The structure of code that a test writes."""

import ast

from benchmarks import house

SOURCE = {
    "a/one.py": "from a import two\ndef _once(): pass\n_once()\ndef _twice(): pass\n_twice(); _twice()\n",
    "a/two.py": "def late():\n    import a.one\nclass Port(Protocol): ...\n",
    "a/three.py": "from a.two import Port\n",
}
TREES = {name: ast.parse(text) for name, text in SOURCE.items()}


def test_modules_that_import_each_other_are_a_cycle_also_within_functions() -> None:
    assert house.import_cycles(SOURCE, TREES) == 1
    alone = {name: text for name, text in SOURCE.items() if name != "a/two.py"}
    assert house.import_cycles(alone, {name: TREES[name] for name in alone}) == 0


def test_helpers_used_once_and_protocols_are_counted() -> None:
    assert house.helpers_used_once(SOURCE, TREES) == 1
    assert [each.name for each in house.protocols(TREES.values())] == ["Port"]
