"""The start of a process: what it imports, its ids, its log, and why a worker does not start."""

import json
import multiprocessing
from pathlib import Path

import pytest

from app_tier import startup
from app_tier.__main__ import DECODER
from app_tier.engines import Batch, Possible
from app_tier.lifecycle import NotStartedError
from app_tier.sizing import HostResources
from app_tier.startup import instance_id, start_up
from core.bundle_manifest import TORCH_NAME
from core.config import load_config
from core.ids import new_id
from core.sandbox.zygote import Zygote
from services.metadata import Metadata
from tests.integration.app_tier.conftest import NOWHERE, SiteMaker
from tests.support.processes import run_python

ROOT = Path(__file__).parents[3]

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


GARBAGE = """
import gc
import app_tier.__main__
from app_tier import startup

class Worker:
    class lifetime:
        status, reason = 0, ""

    def run(self):
        print(gc.isenabled(), gc.get_freeze_count() > 10_000)
        return True

def start_up(zygote):
    print(gc.isenabled())
    return Worker()

startup.start_up = start_up
app_tier.__main__.main()
"""


@pytest.mark.processes
def test_a_worker_collects_garbage_once_started_and_leaves_its_imports_alone() -> None:
    ran = run_python(GARBAGE)
    assert ran.stdout.split() == ["False", "True", "True"]


HEAPS = """
import ctypes, os, threading
import app_tier.__main__
from app_tier import startup
from app_tier.lifecycle import NotStartedError

def start_up(zygote):
    library, all_have = ctypes.CDLL(None), threading.Barrier(40)
    library.malloc.restype = ctypes.c_void_p
    threads = [threading.Thread(target=lambda: (library.malloc(1000), all_have.wait())) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    library.malloc_info(0, ctypes.c_void_p.in_dll(library, "stdout"))
    library.fflush(None)
    raise NotStartedError("counted")

startup.start_up = start_up
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
app_tier.__main__.main()
"""


@pytest.mark.processes
def test_the_threads_of_a_worker_share_as_many_heaps_as_it_has_cores() -> None:
    assert run_python(HEAPS).stdout.count("<heap nr=") == 1


@pytest.mark.parametrize(("cores", "prepared"), [(1, []), (2, [(1, 3, 32, 32)])])
def test_the_network_prepares_for_the_first_image_where_another_core_is_free(
    cores: int, prepared: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, ...]] = []

    class Recorder:
        def infer(self, batch: Batch, _possible: Possible | None = None) -> Batch:
            asked.append(batch.shape)
            return batch

    monkeypatch.setattr(startup, "open_engine", lambda *_arguments, **_options: Recorder())
    monkeypatch.setattr(startup, "this_machine", lambda: HostResources(cores, 2**32))
    model, _ = startup.open_model(load_config(ROOT / "config.yaml", {}))
    assert asked == prepared
    assert model.bundle.unchecked == {TORCH_NAME}


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
