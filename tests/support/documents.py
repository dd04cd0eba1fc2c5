"""The documents and their commands: those in blocks, which a reader copies, and those in sentences."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import ROOT

DOCUMENTS = sorted(
    {*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("[!.]*/README.md")} - {ROOT / "CHANGELOG.md"}
)

COMMAND_LANGUAGES = frozenset({"sh", "bash"})

_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"(?<!`)`([^`]+)`(?!`)")
_CONTINUATION = re.compile(r"\\\n\s*")


@dataclass(frozen=True)
class CommandBlock:
    """The commands of a block, each on one line, for one shell; comment lines are left out."""

    document: str
    commands: tuple[str, ...]

    def __str__(self) -> str:
        """Return the document and the first command, without its comment."""
        return f"{self.document}: {self.commands[0].partition(' #')[0].rstrip()}"


def name_of(document: Path) -> str:
    """Return the path of a document from the project's root."""
    return str(document.relative_to(ROOT))


def command_blocks(document: Path) -> Iterator[CommandBlock]:
    """Yield the blocks of commands of a document, in order."""
    for _, language, block in _FENCE.findall(document.read_text(encoding="utf-8")):
        if language in COMMAND_LANGUAGES:
            lines = [line.strip() for line in _CONTINUATION.sub("", block).splitlines()]
            yield CommandBlock(name_of(document), tuple(line for line in lines if line and not line.startswith("#")))


def block_languages(document: Path) -> list[str]:
    """Return the language of each block of a document; it is empty where the document names none."""
    return [language for _, language, _ in _FENCE.findall(document.read_text(encoding="utf-8"))]


def code_in(text: str) -> Iterator[str]:
    """Yield what the sentences of `text` have in backticks, on one line each."""
    for code in _CODE.findall(_FENCE.sub("", text)):
        yield " ".join(code.split())
