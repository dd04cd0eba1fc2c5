"""The reference of the configuration: config.yaml, with the values that `core.config` allows."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from textwrap import dedent
from typing import Any

from core.config import AUTO, Config
from scripts.documentation.markup import Schema, block, code, joined, prose, split_docstring, table, value_words
from scripts.run.system import ROOT

_SECTION = re.compile(r"(\w+):$")
_KEY = re.compile(r"  (\w+):(?: (.*))?$")
_COMMENT = re.compile(r" *# ?(.*)$")


@dataclass
class SettingGroup:
    """Keys under one comment.

    Attributes:
        comment: lines of the comment above the first key.
        values: the lines of each key's value, by its name.
    """

    comment: list[str]
    values: dict[str, list[str]] = field(default_factory=dict)


@dataclass
class SettingSection:
    """A section of config.yaml with its groups, and the comment above it."""

    comment: list[str]
    groups: list[SettingGroup] = field(default_factory=list)


def read_settings(text: str) -> dict[str, SettingSection]:
    """Return the sections of a config.yaml by name, in its order."""
    sections: dict[str, SettingSection] = {}
    groups: list[SettingGroup] = []
    comment: list[str] = []
    for line in text.splitlines():
        if not line:
            comment = []
        elif found := _SECTION.match(line):
            section = sections[found[1]] = SettingSection(comment)
            groups, comment = section.groups, []
        elif found := _KEY.match(line):
            if comment or not groups:
                groups.append(SettingGroup(comment))
            groups[-1].values[found[1]] = [found[2]] if found[2] else []
            comment = []
        elif line.startswith("    "):  # a value of several lines
            value = next(reversed(groups[-1].values.values()))
            value.append(line)
        elif found := _COMMENT.match(line):
            comment.append(found[1])
        else:
            raise ValueError(f"config.yaml: {line!r} is neither a section, a key, a value nor a comment")
    return sections


def configuration_reference() -> str:
    """Return every key with its values, default and meaning."""
    schema = Config.model_json_schema()
    definitions: dict[str, Any] = schema["$defs"]
    parts: list[str] = []
    used: dict[str, None] = {}
    for name, section in read_settings((ROOT / "config.yaml").read_text(encoding="utf-8")).items():
        model = definitions[_model_of(schema["properties"][name])]
        about = section.comment or [split_docstring(model["description"])[0].partition("\n\n")[0]]
        parts += [f"## {code(name)} {{ #{name} }}", *_comment_blocks(about)]
        for group in section.groups:
            parts += _group_blocks(name, group, model["properties"])
        used |= dict.fromkeys(_models_in(model["properties"]))
    parts.append("## Entries of lists")
    parts += [part for model in used for part in _entry_blocks(model, definitions[model])]
    return joined(parts)


def _model_of(schema: Schema) -> str:
    return str(schema["$ref"]).rpartition("/")[2]


def _models_in(schema: Any) -> Iterator[str]:
    """Yield the models that a schema refers to, at any depth."""
    if isinstance(schema, dict):
        if "$ref" in schema:
            yield _model_of(schema)
        for each in schema.values():
            yield from _models_in(each)


def _group_blocks(section: str, group: SettingGroup, properties: Schema) -> Iterator[str]:
    first, *others = group.values
    title = ", ".join([code(f"{section}.{first}"), *map(code, others)])
    yield f"### {title} {{ #{section}.{first} }}"
    facts = {key: _facts(value, properties[key]) for key, value in group.values.items()}
    if others:
        anchors = {key: "" if key == first else f"{{ #{section}.{key} }}" for key in facts}
        yield "\n".join(f"- {code(key)}{anchors[key]}: {text}" for key, text in facts.items())
    else:
        yield facts[first][0].upper() + facts[first][1:]
    yield from _comment_blocks(group.comment)
    for key, value in group.values.items():
        if len(value) > 1:
            lines = [line for line in value if line != "|"]
            yield f"Default of {code(key)}:"
            yield block(dedent("\n".join(lines)), "yaml")


def _facts(value: list[str], schema: Schema) -> str:
    """Return the allowed values of a key, and its default if that is short."""
    words = value_words(schema, patterns=True)
    if value == [AUTO]:
        words = f"{code(AUTO)} or {words}"
    return f"{words}; default {code(value[0])}" if len(value) == 1 else words


def _comment_blocks(lines: Iterable[str]) -> Iterator[str]:
    """Yield the comment: its sentences, and its indented lines as an example."""
    sentences: list[str] = []
    example: list[str] = []
    for line in lines:
        (example if line.startswith("  ") else sentences).append(line)
    if sentences:
        yield prose("\n".join(sentences))
    if example:
        yield block(dedent("\n".join(example)), "yaml")


def _entry_blocks(name: str, model: Schema) -> Iterator[str]:
    yield f"### {name} {{ #schema-{name} }}"
    yield prose(split_docstring(model["description"])[0])
    required = model.get("required", [])
    yield table(
        ("Key", "Value", "Default"),
        (
            (code(key), value_words(schema, patterns=True), "required" if key in required else _default(schema))
            for key, schema in model["properties"].items()
        ),
    )


def _default(schema: Schema) -> str:
    default = schema.get("default")
    return code(f"[{', '.join(map(str, default))}]" if isinstance(default, list | tuple) else default)
