"""The documents and their commands: those in blocks, which a reader copies, and those in sentences."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

from tests.conftest import ROOT

DOCUMENTS = sorted(
    {*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("[!.]*/README.md")} - {ROOT / "CHANGELOG.md"}
)

COMMAND_LANGUAGES = frozenset({"sh", "bash"})

_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
_SECTION = re.compile(r"^## (.+)$", re.MULTILINE)
_OUTPUT = re.compile(r"\n\s*```text\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"(?<!`)`([^`]+)`(?!`)")
_CONTINUATION = re.compile(r"\\\n\s*")


@dataclass(frozen=True)
class CommandBlock:
    """The commands of a block, each on one line, for one shell; comment lines are left out.

    Attributes:
        output: what they print by the document, which is the block of text right below; empty if there is none.
        section: the last heading of the second level above the block; empty if there is none.
    """

    document: str
    commands: tuple[str, ...]
    output: str = ""
    section: str = ""

    def __str__(self) -> str:
        """Return the document and the first command, without its comment."""
        return f"{self.document}: {self.commands[0].partition(' #')[0].rstrip()}"


def name_of(document: Path) -> str:
    """Return the path of a document from the project's root."""
    return str(document.relative_to(ROOT))


def command_blocks(document: Path) -> Iterator[CommandBlock]:
    """Yield the blocks of commands of a document, in order."""
    text = document.read_text(encoding="utf-8")
    for found in _FENCE.finditer(text):
        if found[2] in COMMAND_LANGUAGES:
            lines = [line.strip() for line in _CONTINUATION.sub("", found[3]).splitlines()]
            commands = tuple(line for line in lines if line and not line.startswith("#"))
            output = _OUTPUT.match(text, found.end())
            sections = _SECTION.findall(text, 0, found.start())
            yield CommandBlock(
                name_of(document), commands, output[1] if output else "", sections[-1] if sections else ""
            )


_VARYING = (
    r"\b(?:ami|i|subnet)-[0-9a-f]{8,17}\b",
    r"\bus-east-1_\w+\b",
    r"\b127(?:\.\d+){3}\b",
    r"\b\d{4}-\d\d-\d\d \d\d:\d\d UTC",
    r"\b[0-9a-f]{12} \(\d+ MB\)",
)
"""What differs between two runs: ids, addresses, times, and the digest and size of the source."""


def output_pattern(output: str) -> str:
    """Return the regular expression of an output in a document, for an output of which `one_line` was taken.

    Ids, addresses and times may be others, and `…` stands for any text.
    """
    kinds = {" ?…": r"(?s:.*?)"} | {kind: kind for kind in _VARYING}
    parts = re.split(f"({'|'.join(kinds)})", one_line(output))
    return "".join(
        re.escape(part) if number % 2 == 0 else next(kinds[kind] for kind in kinds if re.fullmatch(kind, part))
        for number, part in enumerate(parts)
    )


def one_line(output: str) -> str:
    """Return an output without its breaks and the widths of its columns, which depend on the terminal."""
    return re.sub("─+", "─", " ".join(output.split()))


def block_languages(document: Path) -> list[str]:
    """Return the language of each block of a document; it is empty where the document names none."""
    return [language for _, language, _ in _FENCE.findall(document.read_text(encoding="utf-8"))]


def code_blocks(text: str, language: str) -> list[str]:
    """Return the blocks of a language in `text`, without their indentation."""
    return [dedent(block) for _, found, block in _FENCE.findall(text) if found == language]


def code_in(text: str) -> Iterator[str]:
    """Yield what the sentences of `text` have in backticks, on one line each."""
    for code in _CODE.findall(_FENCE.sub("", text)):
        yield " ".join(code.split())
