"""Groups that import the module of a command when the command is used: all modules take longer than most commands."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import click

from fleetsight_client.cli import CommandGroup

Sections = Mapping[str, Mapping[str, click.Command | str]]
"""Commands by the section of the help; a text is the `module:name` of a command that is imported when it is used."""


class LazyGroup(CommandGroup):
    """A group that lists its commands by section and imports each when it is used, as click's documents show."""

    def __init__(self, *, sections: Sections, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.sections = sections

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """Return the names of the commands, in the order of the help."""
        return [name for commands in self.sections.values() for name in commands]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import and return a command, or return None if there is none of this name."""
        found = next((commands[cmd_name] for commands in self.sections.values() if cmd_name in commands), None)
        return found if found is None else _command(found)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write the sections of commands."""
        for title, commands in self.commands_by_section().items():
            with formatter.section(title):
                self.write_commands(formatter, commands)

    def commands_by_section(self) -> Mapping[str, list[click.Command]]:
        """Import and return all commands."""
        return {title: [_command(each) for each in commands.values()] for title, commands in self.sections.items()}


def _command(named: click.Command | str) -> click.Command:
    if isinstance(named, click.Command):
        return named
    module, _, name = named.partition(":")
    command: click.Command = getattr(import_module(module), name)
    return command
