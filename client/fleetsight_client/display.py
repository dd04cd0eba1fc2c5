"""The progress of a classification on the standard error: a bar on a terminal, else a line every ten seconds."""

import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from fleetsight_client.classification import Progress as State
from fleetsight_client.console import Console
from fleetsight_client.terminal import one_line

LINE_SECONDS: Final = 10.0
"""The pause between two lines where there is no terminal."""


class ProgressDisplay:
    """Shows the progress while its context is open."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._next_line = clock() + LINE_SECONDS
        self._blocked = ""
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[counts]}", markup=False),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )

    def __enter__(self) -> Self:
        """Show the bar."""
        self._task = self._bar.add_task("listing", total=None, counts="")
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the bar."""
        self._bar.stop()

    def show(self, state: State) -> None:
        """Show a state; a line says why the server classifies nothing, and another when that has changed."""
        counts = words(state)
        if state.blocked != self._blocked:
            self._blocked = state.blocked
            reason = f"blocked: {one_line(state.blocked)}" if state.blocked else "no longer blocked"
            self._console.print(reason, soft_wrap=True)
        if self._console.is_terminal:
            total = max(1, 2 * state.total) if state.phase != "listing" else None
            completed = state.sent + state.rejected * 2 + state.classified
            self._bar.update(self._task, description=state.phase, total=total, completed=completed, counts=counts)
        elif self._clock() >= self._next_line:
            self._next_line = self._clock() + LINE_SECONDS
            self._console.print(f"{state.phase}: {counts}", soft_wrap=True)


def words(state: State) -> str:
    """Return the counts in words."""
    if state.phase == "listing":
        return f"{state.total:,} images found"
    others = {"replaced": state.replaced, "rejected": state.rejected}
    more = "".join(f", {name} {count:,}" for name, count in others.items() if count)
    waiting = f", without a result {state.waiting:,}" if state.waiting else ""
    note = f" (waiting: {one_line(state.note)})" if state.note else ""
    note = f" (blocked: {one_line(state.blocked)})" if state.blocked else note
    return f"sent {state.sent:,} of {state.total:,}{more}, classified {state.classified:,}{waiting}{note}"
