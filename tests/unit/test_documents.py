"""Documents name what exists: paths, functions, and the test behind each promise."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from core.images import format_names
from tests.conftest import ROOT
from tests.support.documents import DOCUMENTS, name_of
from tests.support.tiers import is_thorough
from web_tier.results.export import CSV_HEADER, ImageBody

ARCHITECTURE = ROOT / "docs" / "architecture.md"
FOLDERS = {each.name for each in ROOT.iterdir() if each.is_dir()}

_CODE = re.compile(r"`([^`\n]+)`")
_PATH = re.compile(r"(?:[\w.-]+/)+[\w.-]*\.(?:py|js|html|md|sh|yaml|toml|txt)")


NAMED = re.compile(r"`((?:client/|localcloud/)?tests/[\w/]+\.py)(?:::(\w+))?`")


@cache
def names_in(path: Path) -> frozenset[str]:
    """Return the names of the functions and classes of a module."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef))


def absent(text: str) -> list[str]:
    """Return the tests that `text` names and that are not there."""
    found = [match.groups() for match in NAMED.finditer(text)]
    missing = [path for path, _ in found if not (ROOT / path).exists()]
    return missing + [
        f"{path}::{test}"
        for path, test in found
        if test is not None and path not in missing and test not in names_in(ROOT / path)
    ]


def paths_in(document: Path) -> Iterator[str]:
    """Yield the paths from the project's root that a document has in backticks."""
    for code in _CODE.findall(document.read_text(encoding="utf-8")):
        path = code.split("::")[0]
        if _PATH.fullmatch(path) and path.split("/")[0] in FOLDERS:
            yield path


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_each_path_in_a_document_exists(document: Path) -> None:
    assert [path for path in paths_in(document) if not (ROOT / path).exists()] == []


def test_each_function_on_the_path_of_an_image_exists() -> None:
    _, _, path = ARCHITECTURE.read_text(encoding="utf-8").partition("## The path of an image")
    rows = re.findall(r"^\|.*\| `([\w/]+\.py)` \| (.+) \|$", path.partition("\n## ")[0], re.MULTILINE)
    named = [(module, name) for module, cell in rows for code in _CODE.findall(cell) for name in code.split(".")]
    assert len(named) > 30
    assert [each for each in named if each[1] not in names_in(ROOT / each[0])] == []


def test_the_page_on_classifying_has_all_formats_and_the_columns_that_are_no_fields() -> None:
    page = (ROOT / "docs" / "classify.md").read_text(encoding="utf-8")
    assert format_names("and") in page
    others = {name for name in CSV_HEADER if re.sub(r"_[2-5]$", "", name) not in ImageBody.model_fields}
    assert others == {"error_code", "error_message", "model_digest"}
    assert [name for name in others if f"`{name}`" not in page] == []


CATALOGUE = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")
EVIDENCE = (ROOT / "tests" / "README.md").read_text(encoding="utf-8")
FAULTS = [int(number) for number in re.findall(r"^(\d+)\. ", CATALOGUE, re.MULTILINE)]
API_RISKS = range(1, 11)


def evidence_of(first_cell: str) -> str:
    """Return the one line of a table of tests/README.md that begins with `first_cell`."""
    [found] = [line for line in EVIDENCE.splitlines() if line.startswith(f"| {first_cell} |")]
    return found


@pytest.mark.parametrize("number", FAULTS)
def test_every_row_of_the_catalogue_has_its_test(number: int) -> None:
    assert NAMED.search(evidence_of(str(number)))


@pytest.mark.parametrize("number", API_RISKS)
def test_every_risk_of_owasps_ten_for_apis_has_its_test(number: int) -> None:
    assert NAMED.search(evidence_of(f"API{number}"))


def test_every_line_of_the_upload_checklist_has_its_test() -> None:
    _, _, after = EVIDENCE.partition("## Uploads")
    rows = [line for line in after.partition("\n## ")[0].splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 10
    assert [line for line in rows if not NAMED.search(line)] == []


def test_every_chapter_of_asvs_is_met_with_its_test_or_says_what_is_missing() -> None:
    page = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| V(\d+) [^|]+\| (met|partly|not applicable) \| ([^|]*)\| ([^|]*)\|$", page, re.MULTILINE)
    assert [int(chapter) for chapter, *_ in rows] == list(range(1, 18))
    for chapter, state, missing, shown in rows:
        assert bool(missing.strip()) == (state != "met"), chapter
        assert bool(NAMED.search(shown)) == (state != "not applicable"), chapter


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_every_test_that_is_named_exists(document: Path) -> None:
    assert absent(document.read_text(encoding="utf-8")) == []


def test_each_promise_says_which_run_of_the_tests_proves_it() -> None:
    thorough = thorough_tests()
    wrong = []
    for row in (line for line in EVIDENCE.splitlines() if line.startswith("| ") and NAMED.search(line)):
        proofs = re.findall(r"`((?:\w+/)+\w+\.py)(::\w+)?`", row)
        in_every_run = [file for file, test in proofs if not {file, file + test} & thorough]
        run = row.rstrip(" |").rpartition("| ")[2]
        if run != "every" if in_every_run else not re.fullmatch(r"`--all`: \w+ .+", run):
            wrong.append(row[:60])
    assert wrong == []


def thorough_tests() -> set[str]:
    """Return each file of tests, and each test as `FILE::NAME`, that only ``./scripts/test.sh --all`` runs."""
    found = set()
    for path in (path for root in ("tests", "localcloud", "client") for path in (ROOT / root).rglob("test_*.py")):
        text, file = path.read_text(encoding="utf-8"), str(path.relative_to(ROOT))
        if is_thorough(path):
            found.add(file)
        elif "pytest.mark.thorough" in text:
            tests = [node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)]
            marked = [node.name for node in tests if "pytest.mark.thorough" in map(ast.unparse, node.decorator_list)]
            found |= {f"{file}::{name}" for name in marked}
    return found


def test_the_tests_of_promises_are_found() -> None:
    assert len(NAMED.findall(EVIDENCE)) > 200


def test_the_inventory_of_secrets_names_every_file_of_keys() -> None:
    inventory = (ROOT / "docs" / "security.md").read_text(encoding="utf-8").partition("\n## Secrets")[2]
    sources = [file for folder in SOURCES for file in (ROOT / folder).rglob("*.py")]
    files = {
        name for file in sources for name in re.findall(r"FLEETSIGHT_\w*(?:KEY|SECRET)\w*_FILE", file.read_text())
    }
    assert files
    assert [name for name in files if name not in inventory] == []


def test_the_documents_name_every_loop_of_the_controller_with_its_period_and_failure() -> None:
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / "web_tier").rglob("loops.py")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    calls = [node for node in nodes if isinstance(node, ast.Call) and ast.unparse(node.func) == "Loop"]
    loops = dict[str, tuple[object, object]]()
    for call in calls:
        texts = [each.value if isinstance(each, ast.Constant) else "" for each in call.args]
        named = {each.arg: ast.literal_eval(each.value) for each in call.keywords}
        if isinstance(call.args[0], ast.Constant):  # a helper of the collector has no row
            loops[str(texts[0])] = (texts[2], named.get("on_failure") or texts[5])
    _, _, after = ARCHITECTURE.read_text(encoding="utf-8").partition("## The loops of the controller")
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| .+? \| (.+?) \|$", after.partition("\n## ")[0], re.MULTILINE)
    assert {name: (every, on_failure) for name, every, on_failure in rows} == loops
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [name for name in loops if f"`{name}`" not in readme] == []


HANDBOOK = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
MAX_WORDS = 21_000
"""Words of the handbook and of the introductions of the reference, so that it can be read from beginning to end."""

SOURCES = ("app_tier/", "core/", "localcloud/", "scripts/", "services/", "web_tier/")


def test_the_handbook_has_at_most_21_000_words() -> None:
    texts = {name_of(page): page.read_text(encoding="utf-8") for page in HANDBOOK}
    texts["docs/formats.md"] = re.sub(r"(?m)^\|.*$", "", texts["docs/formats.md"])  # a test writes its table
    words = {name: len(text.split()) for name, text in texts.items()}
    assert sum(words.values()) <= MAX_WORDS, words


def test_every_alert_has_its_first_look_and_remedy() -> None:
    rules = (ROOT / "infra" / "prometheus" / "alerts.yml").read_text(encoding="utf-8")
    page = (ROOT / "docs" / "operate.md").read_text(encoding="utf-8")
    first_cells = re.findall(r"^\| (\*\w+\*.*?) \|", page, re.MULTILINE)
    assert {name for cell in first_cells for name in re.findall(r"\*(\w+)\*", cell)} == set(
        re.findall(r"- alert: (\w+)", rules)
    )
