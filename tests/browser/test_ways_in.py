"""One picture, one answer: each file gets the same label, or the same reason, by whichever way it comes in.

A test writes the table of docs/formats.md: `WRITE_TABLE=1 ./scripts/test.sh tests/browser/test_ways_in.py`.
"""

import csv
import io
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
from PIL import Image
from playwright.sync_api import Page, expect

from fleetsight_client.api import ApiClient
from scripts.demo_model.signs import samples
from scripts.run.system import System
from tests.browser.conftest import SOURCE, PageFaults, classify, sent
from tests.conftest import ROOT
from tests.support.picture_cases import Files, picture_cases
from tests.support.waiting import DEADLINE_SECONDS, wait_until

pytestmark = pytest.mark.processes

LABEL = "turn left"
"""Of the picture; mirrored or turned it has another one."""

PAGE = ROOT / "docs" / "formats.md"


@dataclass(frozen=True)
class Answer:
    """What a user gets for a file: a label with its score, or a code with its reason."""

    label: str = ""
    score: float = 0.0
    code: str = ""
    reason: str = ""

    @classmethod
    def from_result(cls, result: Mapping[str, Any]) -> "Answer":
        """Return the answer of a result of the API."""
        if result["status"] == "done":
            return cls(result["label"], result["score"])
        return cls(code=result["error"]["code"], reason=result["error"]["message"])

    @property
    def in_words(self) -> str:
        """The answer as the table has it."""
        if self.code or self.reason:
            return f"`{self.code}`" if self.code else self.reason
        return "right" if self.label == LABEL else f"*{self.label}*"


Answers = dict[str, Answer]
"""By filename."""


@pytest.fixture(scope="module")
def groups() -> dict[str, Files]:
    """The files, drawn from a picture with that label."""
    sign = next(sample for sample in samples(None, seed=50) if sample.label == LABEL)
    return picture_cases(
        Image.open(io.BytesIO(sign.data)).convert("RGB").resize((400, 300), Image.Resampling.LANCZOS)
    )


@pytest.mark.parametrize("of_each", [pytest.param(None, marks=pytest.mark.thorough), 2], ids=["all", "two of each"])
def test_files_get_the_same_answer_by_every_way_in(
    page: Page,
    system: System,
    api: ApiClient,
    tmp_path: Path,
    page_faults: PageFaults,
    groups: Mapping[str, Files],
    of_each: int | None,
) -> None:
    """The ways differ in what they reject: of files that get a label, two of each group are enough to find that."""
    page_faults.expect("422")  # of files that only the server can decide on
    chosen = {
        what: dict(list(group.items())[: of_each if "| right |" in row_of(what) else None])
        for what, group in groups.items()
    }
    files = {name: content for group in chosen.values() for name, content in group.items()}
    folder = tmp_path / "cases"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    answers = by_api(api, files)
    ways = {
        "command": by_command(system, folder, tmp_path),
        "classify": by_classify(system, files),
        "import": by_import(system, api, files, answers),
        "page": by_page(page, api, folder),
    }
    for way, found in ways.items():
        assert sorted(files.keys() ^ found.keys()) == [], way
        differences = [(name, found[name], answers[name]) for name in files if differ(found[name], answers[name])]
        assert differences == [], way
    table = table_of(groups, answers)
    if of_each is None and "WRITE_TABLE" in os.environ:
        before, _, rest = PAGE.read_text(encoding="utf-8").partition("| File |")
        PAGE.write_text(before + table + rest[rest.index("\n\n") :], encoding="utf-8")
    assert table in PAGE.read_text(encoding="utf-8"), "write the table again, and read what has changed"


def row_of(what: str) -> str:
    """Return the row of the page on a group of files; it has none on a new group."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    return next((line for line in lines if line.startswith(f"| {what} |")), "")


def differ(one: Answer, other: Answer) -> bool:
    """Return whether two ways answer a file differently. The page names no codes."""
    if one.label or other.label:
        return one != other
    return one.reason != other.reason or (bool(one.code and other.code) and one.code != other.code)


def table_of(groups: Mapping[str, Files], answers: Answers) -> str:
    """Return the table of the answers, which are the same by every way."""
    rows = ["| File | Answer |", "|---|---|"]
    for what, files in groups.items():
        found = dict.fromkeys(answers[name].in_words for name in files if name in answers)
        rows.append(f"| {what} | {', '.join(found)} |")
    return "\n".join(rows)


def by_api(api: ApiClient, files: Files) -> Answers:
    """Upload the files by the API."""
    job_id = api.create_job("API")
    outcome = api.send_images(job_id, list(files.items()), "cases")
    names = list(files)
    rejected = {
        names[at]: Answer(code=each.code, reason=each.message)
        for at, each in outcome.items()
        if not isinstance(each, str)
    }
    return rejected | results_of(api, job_id, len(files) - len(rejected))


def by_command(system: System, folder: Path, tmp_path: Path) -> Answers:
    """Classify the folder by the command."""
    out = tmp_path / "results.csv"
    command = [sys.executable, "-m", "fleetsight_client", "classify", str(folder), "--out", str(out)]
    command += ["--url", system.url]
    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path / "state")}
    ended = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=2 * DEADLINE_SECONDS, check=False
    )
    assert "Not sent" not in ended.stderr + ended.stdout
    with out.open(newline="", encoding="utf-8") as lines:
        return {
            row["filename"]: Answer(
                row["label"], float(row["score"] or 0), row["error_code"] or "", row["error_message"] or ""
            )
            for row in csv.DictReader(lines)
        }


def by_classify(system: System, files: Files) -> Answers:
    """Send each file as the body of a request that waits for its answer."""

    def classify_one(content: bytes) -> Answer:
        headers = {"Content-Type": "application/octet-stream"}
        url = f"{system.url}/api/v1/classify"
        answer = requests.post(url, data=content, headers=headers, timeout=DEADLINE_SECONDS).json()
        if "status" in answer and answer["status"] in {"done", "failed"}:
            return Answer.from_result(answer)
        return Answer(code=answer.get("code", ""), reason=answer["detail"])

    with ThreadPoolExecutor(8) as senders:
        return dict(zip(files, senders.map(classify_one, files.values()), strict=True))


def by_import(system: System, api: ApiClient, files: Files, expected: Answers) -> Answers:
    """Import the files from a bucket; skipped objects are only counted by their reasons."""
    source = f"{SOURCE}{len(files)}/"
    s3, (bucket, prefix) = system.clients.s3, source.removeprefix("s3://").split("/", 1)
    s3.create_bucket(Bucket=bucket)
    for name, content in files.items():
        s3.put_object(Bucket=bucket, Key=prefix + name, Body=content)
    job_id = api.create_job("import", source=source)
    wait_until(lambda: api.status(job_id)["source"]["state"] == "complete", "the source is listed")
    status = api.status(job_id)
    found = results_of(api, job_id, int(status["accepted"]))
    skipped = {name: expected[name] for name in files.keys() - found.keys()}
    assert Counter(each.code for each in skipped.values()) == Counter(status["source"]["skipped"])
    return found | skipped


def by_page(page: Page, api: ApiClient, folder: Path) -> Answers:
    """Choose the folder on the page."""
    page.goto("/")
    page.locator("#folder-input").set_input_files(folder)
    classify(page)
    job_id = sent(page)
    page.locator("#rejectedCount").click()
    lines = page.locator("#reasons li")
    expect(lines).not_to_have_count(0)
    skipped = [line.partition(": ") for line in lines.all_inner_texts()]
    count = api.status(job_id)["accepted"]
    answers = results_of(api, job_id, int(count)) | {name: Answer(reason=reason) for name, _, reason in skipped}
    return {name.removeprefix(f"{folder.name}/"): answer for name, answer in answers.items()}


def results_of(api: ApiClient, job_id: str, images: int) -> Answers:
    """Wait for the results of so many images."""
    wait_until(
        lambda: api.status(job_id)["done"] + api.status(job_id)["failed"] >= images, f"{images} images have results"
    )
    return {re.sub(r"^cases/", "", str(each["filename"])): Answer.from_result(each) for each in api.results(job_id)}
