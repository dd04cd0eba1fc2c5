"""One word for one thing: no visible text has a word that the handbook's list of words rules out."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import click
import pytest

from fleetsight_client.classification import STATUSES
from scripts.cli import fleetsight
from scripts.documentation.reference import served_metrics, shipped_document
from tests.conftest import ROOT
from web_tier.results.export import CSV_HEADER

HANDBOOK = (ROOT / "docs" / "classify.md").read_text("utf-8")
WORDS: dict[str, str] = dict(re.findall(r"(?m)^- \*\*([\w ]+)\*\*: .+ Never: (.+)$", HANDBOOK))
OTHER_FIELDS = re.compile(
    r"batch(es)? (size|of)|in its batch|(?<=\d% )confidence|confidence interval"  # networks and statistics
    r"|^(ground truth|skipped |left out )$|'truth sent'"  # a header of CSV files, keys of the journal
    r"|time to live"
)
"""Words of other fields, and texts that are not shown."""


def template_texts(path: Path) -> Iterator[str]:
    """Yield the text of a template, its shown attributes, and the texts in its expressions."""
    source = re.sub(r"(?s){#.*?#}|<!--.*?-->|<(script|style|svg)\b.*?</\1>", " ", path.read_text("utf-8"))
    for code in re.findall(r"(?s){[{%].*?[%}]}", source):
        yield from (text for text in re.findall(r"'([^'\n]*)'", code) if " " in text)
    plain = re.sub(r"(?s){[{%].*?[%}]}", " ", source)
    yield from re.findall(r'\b(?:title|aria-label|placeholder|alt)="([^"]*)"', plain)
    yield re.sub(r"(?s)<[^>]*>", " ", plain)


def script_texts(path: Path) -> Iterator[str]:
    """Yield the texts of a script that have a space."""
    source = re.sub(r"(?s)/\*.*?\*/|(?<![:\"'`])//[^\n]*", " ", path.read_text("utf-8"))
    for quoted, template in re.findall(r'"((?:[^"\\\n]|\\.)*)"|`((?:[^`\\]|\\.)*)`', source):
        text = re.sub(r"\${[^}]*}", " … ", quoted or template)
        if " " in text.strip():
            yield text


def module_texts(path: Path) -> Iterator[str]:
    """Yield the texts of a module that have a space, without docstrings and lines of the log."""
    tree, hidden = ast.parse(path.read_text("utf-8")), set[ast.AST]()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            hidden.add(node.value)
        elif isinstance(node, ast.Call) and getattr(getattr(node.func, "value", None), "id", "") == "_log":
            hidden |= set(ast.walk(node))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and node not in hidden and " " in str(node.value):
            yield str(node.value)


def api_texts(schema: Any) -> Iterator[str]:
    """Yield the descriptions of an OpenAPI document."""
    if isinstance(schema, dict):
        yield from (schema[key] for key in ("summary", "description") if isinstance(schema.get(key), str))
        schema = list(schema.values())
    for each in schema if isinstance(schema, list) else ():
        yield from api_texts(each)


def command_texts(command: click.Command) -> Iterator[str]:
    """Yield the help of a command and its options, and of the commands in its group."""
    yield from filter(None, (command.help, command.epilog, *(getattr(each, "help", "") for each in command.params)))
    for each in subcommands(command):
        yield from command_texts(each)


def subcommands(command: click.Command) -> Iterator[click.Command]:
    """Yield the commands in a group, also those that are imported when they are used."""
    if isinstance(command, click.Group):
        context = click.Context(command)
        yield from filter(None, (command.get_command(context, name) for name in command.list_commands(context)))


def visible_texts() -> Iterator[tuple[str, str]]:
    """Yield each text with the place that it is from."""
    for folder, pattern, texts in (
        ("web_tier", "*.html", template_texts),
        ("web_tier", "*.js", script_texts),
        *((each, "*.py", module_texts) for each in ("client/fleetsight_client", "core", "scripts", "web_tier")),
    ):
        for path in sorted((ROOT / folder).rglob(pattern)):
            yield from ((str(path.relative_to(ROOT)), text) for text in texts(path))
    yield from (("the API", text) for text in api_texts(shipped_document()))
    yield from (("the commands", text) for text in command_texts(fleetsight))


@cache
def texts() -> list[tuple[str, str]]:
    """Return the visible texts without code and without words of other fields."""
    return [(place, OTHER_FIELDS.sub(" ", re.sub(r"`[^`\n]*`", " ", text))) for place, text in visible_texts()]


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


def test_the_handbook_lists_sixteen_words_and_texts_of_all_kinds_are_read() -> None:
    assert len(WORDS) == 16
    assert len({place for place, _ in texts()}) > 100


def test_names_with_another_word_for_the_same_thing_are_those_that_the_handbook_lists() -> None:
    (listed,) = re.findall(r"(?s)keep shorter words: (.+?)\n\n", HANDBOOK)
    others = {word for each in WORDS.values() for word in each.split(", ")}
    assert visible_names() & others == set(re.findall(r"`(\w+)`", listed))


@pytest.mark.parametrize("word", WORDS)
def test_visible_texts_have_no_other_word_for_the_same_thing(word: str) -> None:
    others = "|".join(WORDS[word].split(", "))
    # Codes and options keep their names: `rejected`, --no-batch, ?truth=.
    found = re.compile(rf"(?i)(?<![-\w/'\"[])({others})(?![-\w/'\"=\]])")
    seen = [
        (place, text[max(0, at.start() - 40) : at.end() + 40])
        for place, text in texts()
        for at in found.finditer(text)
    ]
    assert seen == []
