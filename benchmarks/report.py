"""What a benchmark hands back: figures, and bars that a figure must hold."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Bar:
    """A promise about one measured value.

    Args:
        what: the promise, in words.
        value: what was measured.
        at_most: the highest value that keeps it, or None.
        at_least: the lowest value that keeps it, or None.
    """

    what: str
    value: float
    at_most: float | None = None
    at_least: float | None = None

    @property
    def ok(self) -> bool:
        """Whether the promise is kept."""
        return (self.at_most is None or self.value <= self.at_most) and (
            self.at_least is None or self.value >= self.at_least
        )

    @property
    def bar(self) -> str:
        """The limits as text, such as ``<= 3``."""
        limits = [(">=", self.at_least), ("<=", self.at_most)]
        return " and ".join(f"{sign} {limit:g}" for sign, limit in limits if limit is not None)


@dataclass(frozen=True)
class DocumentPart:
    """Tables in Markdown, which are a section of a page of the documentation, from its heading to the next."""

    page: Path
    heading: str
    text: str

    def write(self) -> None:
        """Replace the section.

        Raises:
            ValueError: the page has no such section.
        """
        section, page = re.compile(rf"(?<=\n### {self.heading}\n\n).*?(?=\n\n#)", re.DOTALL), self.page.read_text()
        if not section.search(page):
            raise ValueError(f"{self.page} has no section {self.heading!r} of the level ###: add its heading")
        self.page.write_text(section.sub(lambda _: self.text, page, count=1))


@dataclass(frozen=True)
class Report:
    """The outcome of one benchmark.

    Args:
        name: of its module.
        figures: what was measured, by a name that ends in its unit.
        bars: the promises; a benchmark fails when one is broken.
        text: tables in Markdown.
        part: those of them that the documentation has.
    """

    name: str
    figures: Mapping[str, float]
    bars: tuple[Bar, ...] = field(default=())
    text: str = ""
    part: DocumentPart | None = None

    @property
    def ok(self) -> bool:
        """Whether every promise is kept."""
        return all(bar.ok for bar in self.bars)

    def write(self, path: Path) -> None:
        """Write the report as JSON."""
        bars = [{"what": bar.what, "value": bar.value, "bar": bar.bar, "ok": bar.ok} for bar in self.bars]
        report = {"name": self.name, "figures": dict(self.figures), "bars": bars}
        path.write_text(json.dumps(report, indent=2) + "\n")

    def show(self, console: Console) -> None:
        """Print the figures and the bars as tables."""
        figures = Table("figure", title=self.name, title_justify="left")
        figures.add_column("value", justify="right")
        for name, value in self.figures.items():
            figures.add_row(name, f"{value:,.4g}")
        console.print(figures)
        if self.text:
            console.print(self.text, markup=False, highlight=False, soft_wrap=True)
        if not self.bars:
            return
        bars = Table("bar")
        bars.add_column("value", justify="right")
        bars.add_column("must be")
        bars.add_column("")
        for bar in self.bars:
            verdict = "[green]ok[/]" if bar.ok else "[red]missed[/]"
            bars.add_row(bar.what, f"{bar.value:,.4g}", bar.bar, verdict)
        console.print(bars)
