"""Every command in the documents is one that its program accepts, with exactly these options and arguments."""

import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import click
import pytest

import benchmarks.__main__ as measuring
from core.config import load_config
from fleetsight_client.single_file import main as single_file
from localcloud.options import load_scenario
from scripts.cli import SECTIONS, fleetsight
from scripts.model.network_spec import NetworkSpec, read_spec
from scripts.release import release
from scripts.run.__main__ import main as run
from tests.conftest import ROOT
from tests.support.documents import DOCUMENTS, block_languages, code_blocks, code_in, command_blocks, name_of
from tests.support.pins import direct

_PROGRAM = re.compile(
    r"^(?P<before>(?:(?:sudo|nice|source <\() ?|[A-Z_]+=(?:'[^']*'|\S+) )*)"
    r"(?P<program>\./scripts/[\w.]+|fleetsight(?= )|(?:\.venv/bin/)?python -m [\w.]+)(?P<rest>.*)$",
    re.DOTALL,
)


@dataclass(frozen=True)
class Documented:
    """A command in a document, with the variables before it.

    Attributes:
        is_whole: whether it can be copied, since it is in a block of commands.
    """

    document: str
    program: str
    arguments: tuple[str, ...]
    is_whole: bool
    variables: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        """Return it as in the document."""
        return f"{self.document}: {self.program} {shlex.join(self.arguments)}"


def commands_in(document: Path) -> Iterator[Documented]:
    """Yield the commands of blocks and sentences."""
    for block in command_blocks(document):
        for command in block.commands:
            yield from _parsed(block.document, command, is_whole=True)
    for code in code_in(document.read_text(encoding="utf-8")):
        yield from _parsed(name_of(document), code, is_whole=False)


def _parsed(document: str, line: str, *, is_whole: bool) -> Iterator[Documented]:
    if (found := _PROGRAM.match(line)) is None:
        return
    words = shlex.split(found["rest"], comments=True)
    if ">" in words:
        words = words[: words.index(">")]
    if line.startswith("source <("):
        words[-1] = words[-1].removesuffix(")")
    # `[--quick]` is an option that may be left out, and `[web|worker]` a choice.
    words = [word.strip("[]").split("|")[0] if "=" not in word else word for word in words]
    before = (word.partition("=") for word in shlex.split(found["before"]))
    variables = tuple((name, value) for name, is_set, value in before if is_set)
    yield Documented(document, found["program"].removeprefix(".venv/bin/"), tuple(words), is_whole, variables)


COMMANDS = [command for document in DOCUMENTS for command in commands_in(document)]


PLACEHOLDERS = {
    "…": "--help",  # `fleetsight fleet …` stands for each command of the group
    "ID": "01K8Z3T7Q0W5V9N2M4X6Y8B1CD",
    "IMAGE": "01K8Z3T7Q0W5V9N2M4X6Y8B1CD",
}
"""What a reader replaces, where a command checks its form."""


def accept_click(program: click.Command) -> Callable[[Documented], None]:
    """Return a check that `program` parses a command, down to the last subcommand; see `parsed_only`."""

    def accept(documented: Documented) -> None:
        arguments = [PLACEHOLDERS.get(word, word) for word in documented.arguments]
        program.main(arguments, standalone_mode=False)

    return accept


def accept_benchmark(documented: Documented) -> None:
    """Check that the benchmark exists; NAME is any."""
    arguments = ["idle" if word == "NAME" else word for word in documented.arguments]
    measuring.parser().parse_args(arguments)


def accept_sections(documented: Documented) -> None:
    """Check that the requirements have the sections."""
    assert [word for word in documented.arguments if not (ROOT / "requirements" / f"{word}.txt").exists()] == []


def accept_tests(documented: Documented) -> None:
    """Check that the tests exist: the arguments are `--all`, `--fast`, or paths with options of pytest."""
    paths = [word for word in documented.arguments if word.startswith("tests/")]
    assert [path for path in paths if not (ROOT / path).exists()] == []
    options = {word for word in documented.arguments if word.startswith("-")}
    assert options <= {"--all", "--fast", "-k", "-s"}


def accept_module(documented: Documented) -> None:
    """Check that the module exists, or is a package that not every environment of tests has."""
    name = documented.program.split()[-1]
    assert find_spec(name) is not None or name in {package for _, package in direct()}


def accept_script(documented: Documented) -> None:
    """Check that the script exists and is executable."""
    assert (ROOT / documented.program).stat().st_mode & 0o111


PROGRAMS: dict[str, Callable[[Documented], None]] = {
    "fleetsight": accept_click(fleetsight),
    "./scripts/fleetsight": accept_click(fleetsight),
    "./scripts/run.sh": accept_click(run),
    "./scripts/setup.sh": accept_sections,
    "./scripts/test.sh": accept_tests,
    "./scripts/pin.sh": accept_script,
    "python -m benchmarks": accept_benchmark,
    "python -m scripts.cli": accept_click(fleetsight),
    "python -m fleetsight_client.single_file": accept_click(single_file),
    "python -m scripts.release": accept_click(release),
    **{
        f"python -m {module}": accept_module
        for module in (
            *("ami.archive", "app_tier", "cyclonedx_py", "localcloud", "mutmut", "pip", "pytest"),
            *(
                "scripts.audit",
                "scripts.documentation.help",
                "tests.chaos",
                "tests.compatibility",
                "tests.fuzz",
                "tests.image",
                "tests.simulation.data_path",
                "tests.simulation.faults",
            ),
        )
    },
}
"""How a command of each program is checked. A document with a new program needs a row here."""


@pytest.fixture(autouse=True)
def parsed_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands are parsed and not run, and FILE and DIR need not exist."""
    monkeypatch.setattr(click.Command, "invoke", lambda _command, _context: None)
    monkeypatch.setattr(click.Path, "convert", lambda _type, value, _parameter, _context: Path(value))


@pytest.mark.parametrize("documented", COMMANDS, ids=str)
def test_a_documented_command_is_accepted(documented: Documented) -> None:
    load_config(environment=dict(documented.variables))
    try:
        PROGRAMS[documented.program](documented)
    except (click.MissingParameter, click.exceptions.NoArgsIsHelpError):
        # A sentence may name a command without its arguments: `fleetsight model build`.
        assert not documented.is_whole
    except click.UsageError as error:
        pytest.fail(f"{documented}: {error.format_message()}")


def test_each_block_has_a_language_so_that_no_command_is_overlooked() -> None:
    assert [name_of(each) for each in DOCUMENTS if "" in block_languages(each)] == []


def test_the_scenarios_of_the_operators_page_are_valid(tmp_path: Path) -> None:
    found = code_blocks((ROOT / "docs" / "operate.md").read_text(encoding="utf-8"), "yaml")
    assert len(found) > 1
    for block in found:
        (tmp_path / "scenario.yaml").write_text(block)
        assert load_scenario(tmp_path / "scenario.yaml")["faults"]


def test_each_command_has_its_exit_statuses_documented() -> None:
    page = (ROOT / "docs" / "operate.md").read_text(encoding="utf-8")
    page = page.partition("## Exit statuses")[2].partition("\n## ")[0]
    named = {name for code in code_in(page) for name in code.removeprefix("fleetsight ").split()}
    assert {name for names in SECTIONS.values() for name in names} <= named


MODELS_PAGE = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")


def test_the_documents_describe_the_network_as_the_example_does(tmp_path: Path) -> None:
    [described] = code_blocks(MODELS_PAGE, "yaml")
    (tmp_path / "colours.yaml").write_text(described)
    assert read_spec(tmp_path / "colours.yaml") == read_spec(ROOT / "examples" / "custom_model" / "colours.yaml")


def test_every_key_of_the_yaml_of_an_own_network_is_documented() -> None:
    page = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
    table = page.partition("| Key |")[2].partition("\n\n")[0]
    first_cells = re.findall(r"^\| (.*?) \|", table, re.MULTILINE)
    assert {key for cell in first_cells for key in code_in(cell)} == set(NetworkSpec.model_fields)
