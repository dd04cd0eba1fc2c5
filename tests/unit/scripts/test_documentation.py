"""The reference of the documentation has everything that the code defines, and documents do not repeat it."""

import re

from scripts.documentation.reference import api_reference, metrics_reference, served_metrics, shipped_document
from tests.support.documents import DOCUMENTS, name_of

CALLS = [f"{method.upper()} {path}" for path, methods in shipped_document()["paths"].items() for method in methods]


def test_each_call_of_the_api_is_listed_once() -> None:
    headings = re.findall(r"(?m)^### `(.+)`$", api_reference())
    assert sorted(headings) == sorted(CALLS)
    assert len(CALLS) > 40


def test_each_metric_is_listed_with_its_labels() -> None:
    rows = metrics_reference().splitlines()
    for metric in served_metrics():
        [row] = [line for line in rows if line.startswith(f"| `{metric.name}` | {metric.process} |")]
        assert all(f"`{label}`" in row for label in metric.labels)
    assert len(rows) > 30


def test_no_document_repeats_a_list_of_the_reference() -> None:
    known = {*CALLS, *(metric.name for metric in served_metrics())}
    for document in DOCUMENTS:
        cells = re.findall(r"^\| `([^`]+)`", document.read_text(encoding="utf-8"), re.MULTILINE)
        repeated = [cell for cell in cells if re.sub(r"\b(ID|JOB)\b", "{job_id}", cell) in known]
        assert (name_of(document), repeated) == (name_of(document), [])
