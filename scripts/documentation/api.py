"""The reference of the HTTP API: the OpenAPI document that the web tier serves, as a page."""

import re
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from itertools import groupby

from core.config import load_config
from scripts.documentation.markup import Schema, code, joined, paragraphs, prose, table, value_words
from scripts.run.system import ROOT
from web_tier.app import create_app
from web_tier.http.openapi import DESCRIPTION, PROBLEMS, api_document
from web_tier.http.problems import CONTENT_TYPE as PROBLEM


def shipped_document() -> Schema:
    """Return the OpenAPI document of a web tier with the shipped configuration; no service is called."""
    return api_document(create_app(load_config(ROOT / "config.yaml", environment={})))


def api_reference() -> str:
    """Return every call with its parameters, body and responses, and the fields of each body."""
    document = shipped_document()
    operations = [
        (operation["tags"][0], method.upper(), path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    parts = list(paragraphs(DESCRIPTION))
    for tag, group in groupby(operations, key=lambda each: each[0]):
        parts.append(f"## {tag}")
        for _, method, path, operation in group:
            # The list of contents is narrow: GET /jobs/JOB.
            short = re.sub(r"{(\w+?)(_id)?}", lambda found: found[1].upper(), path.removeprefix("/api/v1"))
            attributes = f'#{operation["operationId"]} data-toc-label="{method} {short or "/"}"'
            parts += [f"### {code(f'{method} {path}')} {{ {attributes} }}", *_call_blocks(operation)]
    parts += [
        "## Problems",
        "The status of an error, in all calls. Its body is problem JSON: [Problem](#schema-Problem).",
        table(
            ("Status", "Meaning"),
            ((f"{status} {HTTPStatus(status).phrase}", prose(text)) for status, text in PROBLEMS.items()),
        ),
        "## Bodies",
    ]
    for name, schema in sorted(document["components"]["schemas"].items()):
        parts += [f"### {name} {{ #schema-{name} }}", *paragraphs(schema.get("description", ""))]
        parts.append(field_table(schema, {}) if "properties" in schema else value_words(schema))
    return joined(parts)


def field_table(schema: Schema, meanings: Mapping[str, str]) -> str:
    """Return the fields of a model, with their descriptions or these `meanings`."""
    required = schema.get("required", ())
    return table(
        ("Field", "Value", "Meaning"),
        (
            (
                code(name) + ("" if name in required else " (optional)"),
                value_words(field),
                _sentence(field.get("description") or meanings.get(name, "")),
            )
            for name, field in schema["properties"].items()
        ),
    )


def _sentence(text: str) -> str:
    return prose(text[:1].upper() + text[1:])


def _call_blocks(operation: Schema) -> Iterator[str]:
    yield from paragraphs(f"{operation['summary']}.\n\n{operation['description']}")
    yield table(
        ("Parameter", "In", "Value", "Meaning"),
        (
            (code(each["name"]), each["in"], value_words(each["schema"]), prose(each.get("description", "")))
            for each in operation["parameters"]
            if each["in"] != "path"
        ),
    )
    body = operation.get("requestBody")
    if body is not None:
        optional = "" if body["required"] else " (optional)"
        yield f"**Body**{optional}: {_content_words(body['content'])}"
    answers, problems = [], []
    for status, response in operation["responses"].items():
        content = {name: media for name, media in response.get("content", {}).items() if name != PROBLEM}
        if content or int(status) not in PROBLEMS:
            answers.append((status, prose(response["description"]), _content_words(content)))
        if PROBLEM in response.get("content", {}):
            problems.append(status)
    yield table(("Response", "Meaning", "Body"), answers)
    yield f"[Problems](#problems): {', '.join(problems)}"


def _content_words(content: Schema) -> str:
    """Return the media types of a body with their values: a model's name is a link."""
    return ", or ".join(
        f"{value_words(media['schema'])} as {code(name)}" if "$ref" in media["schema"] else code(name)
        for name, media in content.items()
    )
