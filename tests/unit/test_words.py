"""One word for one thing: names of programs have no other word than those that the handbook lists."""

import re
from collections.abc import Iterator
from typing import Any

import click

from fleetsight_client.classification import STATUSES
from scripts.cli import fleetsight
from scripts.documentation.reference import served_metrics, shipped_document
from tests.conftest import ROOT
from web_tier.results.export import CSV_HEADER

HANDBOOK = (ROOT / "docs" / "classify.md").read_text("utf-8")
WORDS: dict[str, str] = dict(re.findall(r"(?m)^- \*\*([\w ]+)\*\*: .+ Never: (.+)$", HANDBOOK))


def subcommands(command: click.Command) -> Iterator[click.Command]:
    """Yield the commands in a group, also those that are imported when they are used."""
    if isinstance(command, click.Group):
        context = click.Context(command)
        yield from filter(None, (command.get_command(context, name) for name in command.list_commands(context)))


def api_names(schema: Any) -> Iterator[str]:
    """Yield the names of addresses, parameters and fields of an OpenAPI document, and the values of fixed sets."""
    if isinstance(schema, dict):
        yield from (name for key in ("paths", "properties") for name in schema.get(key, ()))
        yield from map(str, [*schema.get("enum", ()), schema.get("const", ""), schema.get("name", "")])
        schema = list(schema.values())
    for each in schema if isinstance(schema, list) else ():
        yield from api_names(each)


def command_names(command: click.Command) -> Iterator[str]:
    """Yield the name of a command, its options, the values of their fixed sets, and the names in its group."""
    yield str(command.name)
    for parameter in command.params:
        yield from (*parameter.opts, *getattr(parameter.type, "choices", ()))
    for each in subcommands(command):
        yield from command_names(each)


def visible_names() -> set[str]:
    """Return the words in names that programs use: of the API, commands, CSV columns, metrics, states of files."""
    names = {*api_names(shipped_document()), *command_names(fleetsight), *CSV_HEADER, *STATUSES}
    names |= {name for each in served_metrics() for name in (each.name, *each.labels)}
    return {word for name in names for word in re.split(r"[\W_]+", str(name))}


def test_names_with_another_word_for_the_same_thing_are_those_that_the_handbook_lists() -> None:
    (listed,) = re.findall(r"(?s)keep shorter words: (.+?)\n\n", HANDBOOK)
    others = {word for each in WORDS.values() for word in each.split(", ")}
    assert visible_names() & others == set(re.findall(r"`(\w+)`", listed))
