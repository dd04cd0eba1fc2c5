"""The measurement of branch coverage knows each branch of a module, and which ones were taken."""

from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

import pytest

from tests.support import coverage
from tests.support.coverage import Branch, Measurement, marked, report

SOURCE = """\
def branches(value):
    if value == 1:
        return "one"
    elif value == 2:
        pass
    for item in range(value):
        if item:
            break
    while True:
        break
    match value:
        case 3 | 4:
            return "three"
        case str() if value:
            return "text"
    match value:
        case 5: ...
        case 6 | _: ...
"""
ALL = {
    (2, "true"), (2, "false"), (4, "true"), (4, "false"), (6, "true"), (6, "false"), (7, "true"), (7, "false"),
    (9, "true"), (12, "case"), (14, "case"), (11, "no case"), (17, "case"), (18, "case"),
}  # fmt: skip


def test_each_branch_of_a_module_is_known() -> None:
    branches = marked(SOURCE.encode(), "name")[1]
    assert (set(branches), len(branches)) == (ALL, len(ALL))


def test_two_processes_report_the_branches_that_neither_took(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coverage, "ROOT", tmp_path)
    monkeypatch.setattr(coverage, "SOURCES", ("package",))
    monkeypatch.setattr(coverage, "_FOLDERS", (f"{tmp_path}/package/",))
    monkeypatch.setattr(SourceFileLoader, "get_code", SourceFileLoader.get_code)  # restored at the end
    source = tmp_path / "package" / "module.py"
    source.parent.mkdir()
    source.write_text(SOURCE)
    (tmp_path / "package" / "unused.py").write_text("if 1 > 0: pass")
    for process, value in enumerate((1, 3)):
        measurement = Measurement(tmp_path)
        measurement.begin()
        loader = SourceFileLoader(f"measured{process}", str(source))
        spec = spec_from_loader(loader.name, loader)
        assert spec is not None
        module = module_from_spec(spec)
        loader.exec_module(module)
        module.branches(value)
        monkeypatch.setattr("os.getpid", lambda process=process: process)
        measurement.write()
    missed: dict[str, set[Branch]] = {path: set(found) for path, _, found in report(tmp_path)}
    assert missed == {
        "package/module.py": {(4, "true"), (6, "false"), (14, "case"), (11, "no case"), (17, "case"), (18, "case")},
        "package/unused.py": {(1, "true"), (1, "false")},
    }
