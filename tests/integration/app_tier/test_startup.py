"""The start of a process: what it imports, its ids, its log, and why a worker does not start."""

import json
import multiprocessing

import pytest

from app_tier.__main__ import DECODER
from app_tier.lifecycle import NotStartedError
from app_tier.startup import instance_id, start_up
from core.ids import new_id
from core.sandbox.zygote import Zygote
from services.metadata import Metadata
from tests.integration.app_tier.conftest import NOWHERE, SiteMaker
from tests.support.processes import run_python

WHAT_A_WORKER_IMPORTS = """
import sys
import app_tier.__main__, app_tier.startup
print(*sorted({name.partition(".")[0] for name in sys.modules}))
import app_tier.worker
from app_tier.bundle import load_bundle
from app_tier.engines import open_engine
open_engine("openvino", load_bundle(), 1)
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""


@pytest.mark.processes
def test_a_worker_imports_botocore_beside_the_compilation_and_nothing_unneeded() -> None:
    ran = run_python(WHAT_A_WORKER_IMPORTS)
    at_first, in_the_end = (set(line.split()) for line in ran.stdout.splitlines())
    assert "numpy" in at_first
    assert "botocore" not in at_first
    assert {"openvino", "botocore"} <= in_the_end
    assert in_the_end.isdisjoint(
        {"torch", "torchvision", "nncf", "pandas", "flask", "requests", "rich", "moto", "boto3", "click", "web_tier"}
    )


def test_a_machine_without_a_metadata_service_is_no_instance() -> None:
    assert instance_id(Metadata("http://127.0.0.1:9")) is None


@pytest.mark.parametrize(
    ("variable", "value", "reason"),
    [
        ("FLEETSIGHT_CONFIG", "missing.yaml", r"missing\.yaml"),
        ("FLEETSIGHT__WORKER__BATCH_SIZE", "-1", r"worker\.batch_size"),
        ("FLEETSIGHT__NAMES__PREFIX", "no-such", "check names"),
    ],
)
def test_a_worker_that_cannot_work_does_not_start_and_names_the_reason(
    make_site: SiteMaker, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, reason: str
) -> None:
    monkeypatch.setenv("FLEETSIGHT_CONFIG", str(make_site().config_file))
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", NOWHERE)
    monkeypatch.setenv(variable, value)
    with pytest.raises(NotStartedError, match=reason):
        start_up(Zygote(DECODER))


def test_a_forked_process_makes_ids_of_its_own() -> None:
    with multiprocessing.get_context("fork").Pool(1) as child:
        theirs = set(child.apply(_hundred_ids))
    assert theirs.isdisjoint(_hundred_ids())


def _hundred_ids() -> list[str]:
    return [new_id() for _ in range(100)]


WARNS = """
import warnings
from core.logs import configure_logging

configure_logging("worker")
warnings.warn("Corrupt EXIF data\\nof a user", stacklevel=1)
"""


@pytest.mark.processes
def test_warnings_of_libraries_are_lines_of_the_log() -> None:
    ended = run_python(WARNS)
    [line] = [json.loads(line) for line in ended.stderr.splitlines()]
    assert (line["level"], line["process"], line["logger"]) == ("warning", "worker", "py.warnings")
    assert "Corrupt EXIF data" in line["message"]
