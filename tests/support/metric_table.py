"""The table of the metrics in docs/metrics.md."""

import re

from tests.conftest import ROOT


def documented_metrics() -> dict[str, tuple[str, set[str]]]:
    """Return of each metric which process serves it (`web`, `controller` or `both`), and its labels."""
    text = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    table = text.partition("## The metrics")[2].partition("## CloudWatch")[0]
    rows = [line.split(" | ") for line in table.splitlines() if line.startswith("| `")]
    return {row[0].strip("| `"): (row[1], set(re.findall(r"`(\w+)`", row[2]))) for row in rows}
