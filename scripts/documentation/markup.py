"""Markdown of the reference: tables, sentences of the code, and values that a JSON schema allows, in words."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from inspect import cleandoc
from typing import Any

Schema = Mapping[str, Any]

_CODE = re.compile(r"(``.+?``|`[^`]*`)")
_SPECIAL = re.compile(r"([\\*_>\[\]{}|])")
_LITERAL = re.compile(r"(?<![\w/.`-])(--[a-z][a-z0-9-]*|(?:[a-z_]+/)*[\w.-]+\.(?:md|yaml|sh))\b")
"""Options and files."""

_ATTRIBUTE = re.compile(r"^ {4}(\w+(?:, \w+)*): (.*)$")


def prose(text: str) -> str:
    """Return text of the code as Markdown: only its code, options and files have a meaning."""
    parts = _CODE.split(" ".join(text.split()))
    # Every second part is in backticks.
    parts[::2] = [_escaped(_LITERAL.sub(r"`\1`", part)) for part in parts[::2]]
    return "".join(parts)


def _escaped(text: str) -> str:
    parts = _CODE.split(text)
    parts[::2] = [_SPECIAL.sub(r"\\\1", part).replace("<", "&lt;") for part in parts[::2]]
    return "".join(parts)


def code(text: object) -> str:
    """Return a literal."""
    return f"`{text}`"


def block(text: str, language: str = "text") -> str:
    """Return lines that are shown as they are."""
    return f"```{language}\n{text.strip()}\n```"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table, or an empty text without rows."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([f"| {' | '.join(header)} |", "|---" * len(header) + "|", *lines]) if lines else ""


def joined(parts: Iterable[str]) -> str:
    """Return the blocks of a page, without empty ones."""
    return "\n\n".join(part for part in parts if part) + "\n"


def split_docstring(text: str | None) -> tuple[str, dict[str, str]]:
    """Return a docstring's text, and what it says of each attribute."""
    main, _, rest = cleandoc(text or "").partition("\nAttributes:\n")
    attributes: dict[str, str] = {}
    names: list[str] = []
    for line in rest.splitlines():
        if found := _ATTRIBUTE.match(line):
            names = found[1].split(", ")
            attributes |= dict.fromkeys(names, found[2])
        elif line.strip():
            attributes |= {name: f"{attributes[name]} {line.strip()}" for name in names}
    return main.strip(), attributes


def paragraphs(text: str) -> Iterator[str]:
    """Yield the paragraphs of a docstring or help as Markdown; lines after click's mark stay as they are."""
    for paragraph in cleandoc(text).split("\n\n"):
        yield block(paragraph.removeprefix("\b\n")) if paragraph.startswith("\b") else prose(paragraph)


def one_of(words: Sequence[str]) -> str:
    """Return alternatives: `a, b or c`."""
    return " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def value_words(schema: Schema, *, patterns: bool = False) -> str:
    """Return which values a schema allows; a model is a link to its heading, with the anchor `schema-NAME`.

    Args:
        schema: of JSON Schema, as Pydantic makes it.
        patterns: whether to show regular expressions.
    """
    if name := schema.get("$ref", "").rpartition("/")[2]:
        return f"[{name}](#schema-{name})"
    if literals := [schema["const"]] if "const" in schema else schema.get("enum"):
        return one_of([code(each) for each in literals])
    if alternatives := schema.get("anyOf"):
        return one_of([value_words(each, patterns=patterns) for each in alternatives])
    match schema.get("type"):
        case "array":
            words = f"list of {value_words(schema.get('items', {}), patterns=patterns)}{_count(schema, 'Items')}"
        case "object" if values := schema.get("additionalProperties"):
            words = f"object; each value: {value_words(values, patterns=patterns)}"
        case "string":
            words = _text_words(schema, patterns=patterns)
        case "integer" | "number" as kind:
            words = ", ".join(filter(None, [kind, _range(schema)]))
        case kind:
            words = {"boolean": "`true` or `false`", "null": "`null`", "object": "object"}.get(str(kind), "any value")
    return words


_FORMATS = {"date-time": "time (RFC 3339)", "date": "date", "path": "path", "binary": "file", "uri": "address"}


def _text_words(schema: Schema, *, patterns: bool) -> str:
    text = _FORMATS.get(schema.get("format", ""), "text")
    if patterns and "pattern" in schema:
        text += f" that matches `{schema['pattern']}`"
    return text + _count(schema, "Length")


def _count(schema: Schema, of: str) -> str:
    unit = " characters" if of == "Length" else ""
    low, high = schema.get(f"min{of}"), schema.get(f"max{of}")
    if high is None:
        return f", at least {low}{unit}" if low else ""
    return f", {low} to {high:,}{unit}" if low else f", at most {high:,}{unit}"


def _range(schema: Schema) -> str:
    low, high, above = (schema.get(name) for name in ("minimum", "maximum", "exclusiveMinimum"))
    if low is not None and high is not None:
        return f"{low:,} to {high:,}"
    bounds = [(low, "at least"), (above, "above"), (high, "at most")]
    return ", ".join(f"{words} {bound:,}" for bound, words in bounds if bound is not None)
