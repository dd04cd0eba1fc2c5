"""The reference of the commands: usage, options and arguments, from the same source as their `--help`."""

from collections.abc import Iterator

import click

from scripts.cli import fleetsight
from scripts.documentation.markup import block, code, joined, paragraphs, prose, table

EVERY_COMMAND = {"help", "version"}
"""Options that are not listed with each command."""


def commands_reference() -> str:
    """Return every command with its options."""
    root = context_of(fleetsight, "fleetsight")
    parts = [*_blocks(root, "##")]
    for title, commands in fleetsight.commands_by_section().items():
        parts.append(f"## {title}")
        for command in commands:
            context = context_of(command, str(command.name), root)
            for each in (context, *subcommands(context)):
                parts += _blocks(each, "###")
    return joined(parts)


def context_of(command: click.Command, name: str, parent: click.Context | None = None) -> click.Context:
    """Return a context of a command, with its settings: click keeps the help option that they name."""
    return click.Context(command, info_name=name, parent=parent, **command.context_settings)


def subcommands(context: click.Context) -> Iterator[click.Context]:
    """Yield the commands of a group, and those of groups in it."""
    if isinstance(context.command, click.Group):
        for name in context.command.list_commands(context):
            command = context.command.get_command(context, name)
            if command is not None and not command.hidden:
                inner = context_of(command, name, context)
                yield inner
                yield from subcommands(inner)


def _blocks(context: click.Context, level: str) -> Iterator[str]:
    """Yield heading, usage, help and options of a command; its anchor is such as `fleetsight-fleet-scale`."""
    command, path = context.command, context.command_path
    yield f"{level} {code(path)} {{ #{path.replace(' ', '-')} }}"
    yield block(" ".join([path, *command.collect_usage_pieces(context)]))
    yield from paragraphs(command.help or "")
    records = [
        record
        for option in command.get_params(context)
        if option.name not in EVERY_COMMAND and (record := option.get_help_record(context)) is not None
    ]
    yield table(("Option", "Meaning"), ((code(names), prose(text)) for names, text in records))
    if command.epilog:
        yield block(command.epilog) if "\n" in command.epilog else prose(command.epilog)
