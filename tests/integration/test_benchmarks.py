"""What benchmarks measure with, on a real kernel: cores, processes, a delaying proxy, a flooded worker, torch."""

import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from app_tier.bundle import DEMO_BUNDLE, load_bundle
from app_tier.engine_imports import import_torch
from app_tier.engines import TorchEngine
from benchmarks import peers
from benchmarks.__main__ import main
from benchmarks.engine import PEAKS, SIDE, gpu_engines, matrix_product
from benchmarks.flood import Cores, FloodBench, PinnedWorker, checked
from benchmarks.measure import Usage, busy_seconds, cpu_seconds_between, pinned, tree, two_cores, usage_of, usages
from core.ids import ImageRef, new_id
from core.messages import ClassificationResult, Failure
from localcloud.launch import LocalCloud
from scripts.demo_model.signs import samples
from services.errors import FleetsightError
from tests.support import peer_server
from tests.support.servers import serving


@pytest.fixture
def allowed() -> set[int]:
    return os.sched_getaffinity(0)


@pytest.mark.processes
def test_a_process_that_is_started_pinned_may_use_that_core_alone(allowed: set[int]) -> None:
    core = max(allowed)
    with pinned(core):
        printed = subprocess.check_output([sys.executable, "-I", "-c", "import os; print(os.sched_getaffinity(0))"])
    assert printed.decode().strip() == str({core})


def test_afterwards_everything_may_run_where_it_could_before(allowed: set[int]) -> None:
    with pytest.raises(KeyError), pinned(min(allowed)):
        raise KeyError
    assert os.sched_getaffinity(0) == allowed


def test_one_core_is_too_few_for_a_measurement(allowed: set[int]) -> None:
    with pinned(min(allowed)), pytest.raises(RuntimeError, match="needs a second one"):
        two_cores()


def test_two_different_cores_are_found_among_those_allowed(allowed: set[int]) -> None:
    if len(allowed) < 2:
        pytest.skip("this machine has one core")
    first, second = two_cores()
    assert first != second
    assert {first, second} <= allowed


def test_a_core_is_busy_for_longer_and_longer(allowed: set[int]) -> None:
    core = min(allowed)
    first = busy_seconds(core)
    assert 0 < first <= busy_seconds(core)


def test_a_process_that_has_gone_has_used_nothing() -> None:
    process = subprocess.Popen([sys.executable, "-I", "-S", "-c", ""])
    process.wait()
    assert usage_of(process.pid) is None
    assert usages([process.pid]) == {}


def test_this_process_has_memory_and_a_peak_not_below_it() -> None:
    usage = usage_of(os.getpid())
    assert usage is not None
    assert 0 < usage.resident_mb <= usage.peak_mb


@pytest.mark.processes
def test_children_are_counted_with_their_parent() -> None:
    waiting = [sys.executable, "-I", "-S", "-c", "import sys; sys.stdin.read()"]
    with subprocess.Popen(waiting, stdin=subprocess.PIPE) as child:
        assert {os.getpid(), child.pid} <= set(tree(os.getpid()))
        assert set(usages([os.getpid()], below=False)) == {os.getpid()}
        assert child.stdin is not None
        child.stdin.close()


def test_a_process_that_started_in_between_counts_from_its_start() -> None:
    before = {1: Usage(2.0, 10, 10)}
    after = {1: Usage(2.5, 10, 10), 2: Usage(0.75, 10, 10)}
    assert cpu_seconds_between(before, after) == 1.25


IMAGES = 60


def response(ref: ImageRef, error: Failure | None = None) -> ClassificationResult:
    return ClassificationResult(
        job_id=ref.job_id,
        image_id=ref.image_id,
        status="failed" if error else "done",
        label=None if error else "stop",
        score=None if error else 1.0,
        worker="w",
        attempts=1,
        error=error,
    )


@pytest.fixture
def refs() -> list[ImageRef]:
    return [ImageRef(new_id(), new_id()) for _ in range(3)]


def test_a_response_for_each_image_is_what_must_come(refs: list[ImageRef]) -> None:
    responses = [response(ref) for ref in reversed(refs)]
    assert checked(responses, refs) == responses


@pytest.mark.parametrize("kept", [[0, 1], [0, 1, 1, 2], [0, 1, 1]])
def test_a_response_too_few_or_too_many_fails_the_benchmark(kept: list[int], refs: list[ImageRef]) -> None:
    with pytest.raises(RuntimeError, match="3 images were sent"):
        checked([response(refs[index]) for index in kept], refs)


def test_an_image_that_was_not_classified_fails_the_benchmark(refs: list[ImageRef]) -> None:
    with pytest.raises(RuntimeError, match="no such object"):
        checked([response(refs[0], Failure(code="missing", message="no such object"))], refs[:1])


@pytest.fixture
def bench(cloud: LocalCloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FloodBench]:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("this machine has one core: a worker on a core of its own needs a second one")
    monkeypatch.setattr(os, "environ", os.environ.copy())
    cores = Cores(*two_cores())
    with pinned(cores.others):
        yield FloodBench(cloud, PinnedWorker(cores, tmp_path / "worker.log"))


@pytest.mark.processes
def test_a_real_worker_answers_every_image_and_each_of_its_calls_is_delayed(bench: FloodBench) -> None:
    bench.store([sample.data for sample in samples(5, seed=1, sizes=(((64, 64), 1.0),))], IMAGES)
    flood = bench.flood(DEMO_BUNDLE, IMAGES)
    # An image is fetched, and its prediction stored. Now and then the worker checks whether the job was cancelled.
    assert 1 <= flood.calls["s3"] - 2 * IMAGES <= IMAGES / 2
    assert flood.calls["sqs"] >= 3 * IMAGES / 10
    assert flood.fetched_ms >= 20
    assert flood.stored_ms >= 20
    assert 0 < flood.window.images < IMAGES
    assert flood.samples[-1].cpu_seconds["worker"] > flood.samples[0].cpu_seconds["worker"]


@pytest.mark.processes
def test_a_worker_that_cannot_start_fails_the_benchmark_with_its_reason(bench: FloodBench, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"(?s)ended with status 1.*no model bundle"):
        bench.flood(tmp_path, 0)


@pytest.mark.parametrize("kind", PEAKS)
def test_a_matrix_product_counts_its_operations_in_thousands_of_millions(kind: str) -> None:
    run = matrix_product(next(peak for peak in PEAKS if peak == kind))
    assert run.amount == 2 * SIDE**3 / 1e9


def test_a_gpu_is_measured_where_there_is_one_in_what_it_is_fast_at(monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = load_bundle()
    assert gpu_engines(bundle) == {}
    torch = import_torch()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    opened: list[str] = []
    monkeypatch.setattr(TorchEngine, "__init__", lambda self, bundle, precision: opened.append(precision))
    assert list(gpu_engines(bundle)) == opened == ["fp32", "bf16"]
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    assert list(gpu_engines(bundle)) == ["fp32"]


PEER_SERVER = Path(peer_server.__file__)
OVER_HTTP = {"url": "http://127.0.0.1:{port}/classify", "field": "photo", "label": '"class": "([^"]+)"', "at_once": 3}
BY_COMMAND = {"command": [sys.executable, str(PEER_SERVER), "send", "{port}", "{images}"]}


def write_peer(folder: Path, **changes: object) -> Path:
    settings: dict[str, object] = {
        "name": "tiny",
        "start": [sys.executable, str(PEER_SERVER), "serve", "{port}"],
        "ready": "http://127.0.0.1:{port}/",
        "classify": OVER_HTTP,
    }
    (folder / "peer.yaml").write_text(yaml.safe_dump(settings | changes))
    return folder


@pytest.mark.processes
@pytest.mark.parametrize("way", [OVER_HTTP, BY_COMMAND], ids=["http", "command"])
def test_a_peer_is_measured_beside_this_system_on_the_same_images(
    way: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.peers.QUICK_IMAGES", 12)
    before = set(tree(os.getpid()))
    report = peers.run(quick=True, folder=write_peer(tmp_path, classify=way))
    assert set(tree(os.getpid())) <= before, "both systems have ended"
    figures = report.figures
    for temperature in ("cold", "warm"):
        assert figures[f"{temperature}_same_label_share"] == 1
        assert figures[f"peer_{temperature}_unlabelled"] == figures[f"ours_{temperature}_unlabelled"] == 0
        ours, theirs = (figures[f"{side}_{temperature}_images_per_second"] for side in ("ours", "peer"))
        bar = next(bar for bar in report.bars if bar.what == f"{temperature}, ours ÷ tiny: images/s")
        assert bar.value == pytest.approx(ours / theirs)
        assert bar.ok is (ours >= theirs)


@pytest.mark.processes
def test_an_image_that_a_peer_cannot_label_is_counted_and_does_not_count_as_throughput(tmp_path: Path) -> None:
    for name in ("stop-sign.jpg", "broken.jpg", "danger.png"):
        (tmp_path / name).write_bytes(b"not read")
    server = ThreadingHTTPServer(("127.0.0.1", 0), peer_server.PeerHandler)
    settings = peers.HttpClassify.model_validate(OVER_HTTP)
    with serving(server) as address:
        outcome = peers.over_http(settings, f"{address}/classify", tmp_path)
    assert (outcome.images, outcome.labels) == (3, {"stop-sign.jpg": "Stop_Sign", "danger.png": "Danger"})
    assert outcome.images_per_second == pytest.approx(2 / max(outcome.moments))


PRINTS = [sys.executable, "-c", "print('other.jpg\\tstop')"]
ENDS = [sys.executable, "-c", "import sys; sys.exit('no weights here')"]


@pytest.mark.processes
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"start": ENDS}, "tiny has ended; its log ends with: no weights here"),
        ({"start": ["./no-such-program"]}, "tiny cannot be started"),
        ({"classify": {"command": ENDS}}, "ended with status 1"),
        (
            {"classify": {"command": [sys.executable, "-c", "print('other.jpg\\tstop')"]}},
            "tiny has labelled no image",
        ),
        ({"images": "."}, "no image in it"),
        ({"start": []}, r"peer\.yaml is not valid: start: "),
        ({"speed": 3}, r"peer\.yaml is not valid: speed: "),
    ],
)
def test_a_peer_that_cannot_be_measured_is_reported_with_the_reason(
    changes: dict[str, object], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.peers.QUICK_IMAGES", 2)
    with pytest.raises(FleetsightError, match=reason):
        peers.run(quick=True, folder=write_peer(tmp_path, **changes))


@pytest.mark.parametrize("arguments", [["peers"], ["decode", "folder"]])
def test_only_peers_takes_a_folder(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(arguments)
    assert "python -m benchmarks peers DIR" in capsys.readouterr().err


def test_a_folder_without_settings_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["peers", str(tmp_path)]) == 2
    assert f"cannot read {tmp_path / 'peer.yaml'}" in capsys.readouterr().err
