"""What a person sees of a load test: a bar while it runs, then the figures."""

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from core.format import dollars
from scripts.load.figures import Summary


def bar(console: Console) -> Progress:
    """Return a progress bar; it draws on a terminal only."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
    )


def show(console: Console, summary: Summary) -> None:
    """Print the figures, then what went wrong first, if anything did."""
    table = Table(title=f"{summary.images} images, {summary.mode}", show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(justify="right")
    for name, value in rows(summary):
        table.add_row(name, value)
    console.print(table)
    for problem in summary.problems:
        console.print(Text(problem))


def rows(summary: Summary) -> list[tuple[str, str]]:
    """Return the rows of the table: name and value."""
    counts = [("right", summary.right)] if summary.right or not summary.answered else []
    counts += [("answered", summary.answered)] if summary.answered else []
    counts += [("wrong", summary.wrong), ("failed", summary.failed), ("lost", summary.lost)]
    times = (summary.p50_s, summary.p95_s, summary.p99_s, summary.slowest_s)
    return [
        *((name, str(count)) for name, count in counts),
        ("seconds", f"{summary.seconds:.2f}"),
        ("images/s", f"{summary.images_per_second:.1f}"),
        *(
            (f"request, {name}", "-" if seconds is None else f"{seconds:.3f} s")
            for name, seconds in zip(("p50", "p95", "p99", "slowest"), times, strict=True)
        ),
        *_costs(summary),
    ]


def _costs(summary: Summary) -> list[tuple[str, str]]:
    per_thousand = summary.dollars_per_1000_images
    return [
        *([("meanwhile, the fleet cost", str(summary.cost))] if summary.cost else []),
        *([("1,000 images", dollars(per_thousand))] if per_thousand is not None else []),
    ]
