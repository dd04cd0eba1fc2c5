"""The console of tables, styled text and progress bars."""

import sys
from collections.abc import Iterable
from typing import IO, Any

import rich.console
from rich.console import ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from fleetsight_client.terminal import CleanedTerminal, printable


class Console(rich.console.Console):  # noqa: TID251 (this is the one that cleans)
    """A console of rich that shows text as it is: printable, without markup. Only the program itself styles it."""

    def __init__(self, *, file: IO[str] | None = None, stderr: bool = False, **options: Any) -> None:
        stream = file or (sys.stderr if stderr else sys.stdout)
        if isinstance(stream, CleanedTerminal):  # it would replace the styles, too
            stream = stream.terminal
        super().__init__(file=stream, markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Return a string as text, printable before its width is measured."""
        return super().render_str(printable(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yield the segments of a table, a text or a bar."""
        for each in super().render(renderable, options):
            # A segment with control codes is the program's own: it moves the cursor for a progress bar.
            yield each if each.control else Segment(printable(each.text), each.style)
