"""``python -m scripts.documentation.help``: write the help that scripts print before anything is installed.

Run it after a change of the options of `run.sh`, or of the list of commands.
"""

from pathlib import Path
from typing import Final

import click

from fleetsight_client.terminal import clean_terminal_output
from scripts.cli import fleetsight
from scripts.run.__main__ import main as run

FOLDER: Final = Path(__file__).parents[1] / "help"
PROGRAMS: Final[dict[str, tuple[click.Command, str]]] = {
    "run": (run, "./scripts/run.sh"),
    "fleetsight": (fleetsight, "fleetsight"),
}
"""The command of each file and the name that its help has for it."""

TERMINAL_WIDTH: Final = 78
"""What click uses of a terminal with 80 columns or more."""


def help_text(command: click.Command, name: str) -> str:
    """Return the help of a command as a terminal with 80 columns shows it."""
    context = command.make_context(name, [], resilient_parsing=True, terminal_width=TERMINAL_WIDTH)
    return command.get_help(context) + "\n"


if __name__ == "__main__":
    clean_terminal_output()
    for file, (command, name) in PROGRAMS.items():
        (FOLDER / f"{file}.txt").write_text(help_text(command, name), encoding="utf-8")
