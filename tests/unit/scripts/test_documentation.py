"""The reference of the documentation has everything that the code defines, and documents do not repeat it."""

import re
from inspect import getmembers, isclass
from pathlib import Path

import click
import pytest

from core import messages
from core.messages import ClassificationResult, WireModel, parse_worker_message
from scripts.cli import fleetsight
from scripts.documentation.api import api_reference, shipped_document
from scripts.documentation.commands import commands_reference, context_of, subcommands
from scripts.documentation.configuration import configuration_reference
from scripts.documentation.messages import messages_reference, samples
from scripts.documentation.metrics import metrics_reference, served_metrics
from tests.support.documents import DOCUMENTS, name_of

API, COMMANDS, CONFIGURATION, MESSAGES, METRICS = PAGES = (
    api_reference(),
    commands_reference(),
    configuration_reference(),
    messages_reference(),
    metrics_reference(),
)


def contexts() -> list[click.Context]:
    """Return all commands."""
    roots = [context_of(fleetsight, "fleetsight")]
    return [each for root in roots for each in (root, *subcommands(root))]


@pytest.mark.parametrize("page", PAGES, ids=["api", "commands", "configuration", "messages", "metrics"])
def test_each_link_within_a_page_has_its_anchor_once(page: str) -> None:
    anchors = re.findall(r"\{ #([\w.-]+) ", page)
    assert sorted(anchors) == sorted(set(anchors))
    assert set(re.findall(r"\]\(#([\w.-]+)\)", page)) <= {*anchors, "problems"}


@pytest.mark.parametrize("context", contexts(), ids=lambda context: context.command_path)
def test_each_command_is_listed_with_its_options(context: click.Context) -> None:
    _, _, section = COMMANDS.partition(f"# `{context.command_path}` {{ #")
    section = re.split(r"\n##+ `", section)[0]
    assert section.startswith(context.command_path.removeprefix("./scripts/").replace(" ", "-"))
    for option in context.command.params:
        if isinstance(option, click.Option) and not option.hidden and option.name != "version":
            assert all(name in section for name in (*option.opts, *option.secondary_opts)), option.opts


def test_each_call_of_the_api_is_listed() -> None:
    document = shipped_document()
    calls = [f"`{method.upper()} {path}`" for path, methods in document["paths"].items() for method in methods]
    assert [call for call in calls if f"### {call} " not in API] == []
    assert [name for name in document["components"]["schemas"] if f"{{ #schema-{name} }}" not in API] == []
    assert len(calls) > 40


def test_each_message_is_listed_with_its_fields() -> None:
    models = [
        model
        for name, model in getmembers(messages, isclass)
        if issubclass(model, WireModel) and model is not WireModel and not name.startswith("_")
    ]
    assert len(models) >= 9
    for model in models:
        _, _, section = MESSAGES.partition(f"{{ #schema-{model.__name__} }}")
        assert section, model
        assert [key for key in model.model_fields if f"| `{key}`" not in section.partition("\n## ")[0]] == []


def test_the_samples_of_messages_can_be_read() -> None:
    for model, shown in samples().items():
        for sample in shown:
            assert type(sample).from_json(sample.to_json()) == sample
            if model.__name__ not in {"RequestMessage", "Prediction"}:
                assert parse_worker_message(sample.to_json()) == sample
    assert {each.status for each in samples()[ClassificationResult] if isinstance(each, ClassificationResult)} == {
        "done",
        "failed",
    }


def test_each_metric_is_listed_with_its_labels() -> None:
    for metric in served_metrics():
        [row] = [line for line in METRICS.splitlines() if line.startswith(f"| `{metric.name}` |")]
        assert all(f"`{label}`" in row for label in metric.labels)
    assert len(served_metrics()) > 30


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_a_document_does_not_repeat_a_list_of_the_reference(document: Path) -> None:
    cells = re.findall(r"^\| `([^`]+)`", document.read_text(encoding="utf-8"), re.MULTILINE)
    known = {metric.name for metric in served_metrics()}
    known |= {
        f"{method.upper()} {path}" for path, methods in shipped_document()["paths"].items() for method in methods
    }
    assert [cell for cell in cells if re.sub(r"\b(ID|JOB)\b", "{job_id}", cell) in known] == []
