"""What a person sees of a run: the live bar, then the summary."""

import sys
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from scripts.run import batch
from scripts.run.cost import Cost


class _Figures(ProgressColumn):
    """Uploaded, waiting, classified and workers in one line."""

    def render(self, task: Task) -> Text:
        """Return the column's text."""
        fields = task.fields
        return Text(
            f"uploaded {fields['uploaded']:>3} waiting {fields['waiting']:>3} "
            f"classified {fields['classified']:>3} workers {fields['workers']:>2}",
            no_wrap=True,
        )


class LiveBar:
    """Shows a batch as it goes: a bar on a terminal, a line for each change elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._last_line = ""
        self._bar = Progress(
            BarColumn(bar_width=18),  # the whole line fits into 80 columns
            _Figures(),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> "LiveBar":
        """Start drawing."""
        self._task = self._bar.add_task("batch", total=None, uploaded=0, waiting=0, classified=0, workers=0)
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the last state on the screen."""
        self._bar.stop()

    def show(self, progress: batch.Progress) -> None:
        """Draw where the batch stands."""
        self._bar.update(
            self._task,
            total=progress.total,
            completed=progress.classified,
            uploaded=progress.uploaded,
            waiting=progress.waiting,
            classified=progress.classified,
            workers=progress.workers,
        )
        line = (
            f"uploaded {progress.uploaded} of {progress.total}, waiting {progress.waiting}, "
            f"classified {progress.classified}, workers {progress.workers}"
        )
        if not self._console.is_terminal and line != self._last_line:
            print(line, file=sys.stdout, flush=True)
        self._last_line = line


def show_summary(console: Console, summary: batch.Summary, cost: Cost) -> None:
    """Print the table of what became of the batch, then what went wrong, if anything did."""
    table = Table(title=f"{summary.images} images, {summary.model}", show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(justify="right")
    for name, value in _rows(summary, cost):
        table.add_row(name, value)
    console.print(table)
    for name, true, answered in summary.mistakes[:10]:
        console.print(Text(f"wrong: {name} is {true!r}, answered {answered!r}"))
    for name, reason in summary.failures[:10]:
        console.print(Text(f"failed: {name}: {reason}"))


def _rows(summary: batch.Summary, cost: Cost) -> list[tuple[str, str]]:
    if summary.right is None:
        verdicts = [(label, str(count)) for label, count in summary.labels.most_common(10)]
    else:
        verdicts = [("right", str(summary.right)), ("wrong", str(summary.wrong))]
    return [
        *verdicts,
        ("failed", str(summary.failed)),
        ("lost", str(summary.lost)),
        ("images/s", f"{summary.images_per_second:.1f}"),
        ("peak workers", str(summary.peak_workers)),
        ("first result", f"{summary.first_result_s:.2f} s"),
        ("last result", f"{summary.last_result_s:.2f} s"),
        ("would have cost", str(cost)),
    ]
