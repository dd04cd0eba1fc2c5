"""The container image's files, read as data: instructions of the Dockerfile, and what it promises."""

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from tests.conftest import ROOT

DOCKERFILE = ROOT / "Dockerfile"

_CONTINUED = re.compile(r"\\\n\s*")


@dataclass(frozen=True)
class Stage:
    """A stage of a Dockerfile: its base image, and its instructions with their arguments."""

    base: str
    instructions: tuple[tuple[str, str], ...]

    def of(self, name: str) -> list[str]:
        """Return the arguments of the instructions of a kind."""
        return [arguments for instruction, arguments in self.instructions if instruction == name]

    def command(self, name: str) -> list[str]:
        """Return the words of the only instruction of a kind that has a JSON array."""
        [arguments] = self.of(name)
        return [str(word) for word in json.loads(arguments[arguments.index("[") :])]

    @cached_property
    def environment(self) -> Mapping[str, str]:
        """The variables that ENV sets."""
        words = [word for arguments in self.of("ENV") for word in shlex.split(arguments)]
        return dict(word.split("=", 1) for word in words)

    @cached_property
    def copies(self) -> list[tuple[list[str], str]]:
        """The sources and the target of each COPY from the checkout."""
        lines = [shlex.split(arguments) for arguments in self.of("COPY")]
        return [(words[:-1], words[-1]) for words in lines if not words[0].startswith("--")]


def ignored_patterns() -> list[str]:
    """Return the patterns of files that the build context leaves out."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def stages() -> list[Stage]:
    """Return the stages of the Dockerfile, the last of which is the image."""
    text = "\n".join(line for line in DOCKERFILE.read_text().splitlines() if not line.lstrip().startswith("#"))
    found: list[tuple[str, list[tuple[str, str]]]] = []
    for line in filter(None, map(str.strip, _CONTINUED.sub("", text).splitlines())):
        instruction, arguments = line.split(None, 1)
        if instruction == "FROM":
            found.append((arguments.split()[0], []))
        else:
            found[-1][1].append((instruction, arguments))
    return [Stage(base, tuple(instructions)) for base, instructions in found]
