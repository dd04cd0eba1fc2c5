"""Real worker processes against the local cloud."""

import json
import shutil
import signal
import socket
from collections.abc import Container
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app_tier.bundle import DEMO_BUNDLE, Bundle, load_bundle
from app_tier.engines import open_engine
from app_tier.preprocess import load_pixels
from app_tier.receiver import parse_messages
from core.bundle_facts import MANIFEST_NAME
from core.config import MIN_MESSAGE_BYTES
from core.ids import ImageRef
from core.jobs.keys import output_key
from core.messages import CRASHED_ALONE, MODEL_GONE, ClassificationResult, Heartbeat, RequestedModel, StoredResults
from core.model_catalog import JobModel
from scripts.demo_model.signs import Sample, samples
from services.metadata import DRAIN_TAG
from tests.integration.app_tier.conftest import ROOT, Site, SiteMaker
from tests.support.processes import state_of
from tests.support.servers import SPOT_ACTION, SPOT_NOTICE, MetadataService
from tests.support.waiting import DEADLINE_SECONDS, NEVER_SECONDS, wait_until

pytestmark = pytest.mark.processes

SMALL = (((64, 64), 1.0),)
FIFO = pytest.param("fifo", marks=pytest.mark.thorough)
KINDS = pytest.mark.parametrize("kind", ["standard", FIFO])


def small_signs(count: int) -> list[Sample]:
    return list(samples(count, seed=11, sizes=SMALL))


@pytest.mark.parametrize("is_pack", [False, True], ids=["lone images", "one pack"])
def test_twenty_signs_are_classified_as_by_the_engine_and_the_worker_ends_itself(
    make_site: SiteMaker, is_pack: bool
) -> None:
    site = make_site()
    signs = list(samples(20, seed=3))
    images = [sign.data for sign in signs]
    refs = site.submit_pack(images) if is_pack else site.submit(images)
    worker = site.start_worker(afresh=True)
    results = site.collect(20)
    assert worker.wait() == 0
    assert worker.log()[-1]["reason"] == "idle for 1 s"
    assert site.requests.counts().total == 0
    answers = [results[ref.image_id][0] for ref in refs]
    right = sum(answer.label == sign.label for answer, sign in zip(answers, signs, strict=True))
    assert right >= 18
    assert {answer.worker for answer in answers} == {f"local-{worker.process.pid}"}
    assert all(answer.attempts == 1 for answer in answers)
    stored = site.predictions_of_pack(refs) if is_pack else [site.prediction(ref) for ref in refs]
    predicted = np.array([each.probabilities for each in stored])
    # `tests/integration/model/test_engines.py` holds this engine's answers to those of torch.
    bundle = load_bundle(ROOT / site.config.worker.bundle)
    pixels = np.stack([load_pixels(sign.data, bundle.manifest.preprocess) for sign in signs])
    expected = open_engine("openvino", bundle).infer(pixels)
    assert np.abs(predicted - expected).max() < 1e-2
    assert (predicted.argmax(1) == expected.argmax(1)).all()


@pytest.mark.parametrize(
    ("label_characters", "labels_sent"), [(20, range(1, 5)), (200, ())], ids=["some labels fit", "none fits"]
)
def test_with_the_smallest_messages_every_image_has_an_answer_and_a_whole_prediction(
    make_site: SiteMaker, tmp_path: Path, label_characters: int, labels_sent: Container[int]
) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(DEMO_BUNDLE, bundle)
    manifest = json.loads((bundle / MANIFEST_NAME).read_text(encoding="utf-8"))
    labels = [f"{number:02}".rjust(label_characters, "\U0001f3d6") for number in range(len(manifest["labels"]))]
    (bundle / MANIFEST_NAME).write_text(
        json.dumps(manifest | {"labels": labels, "messages": {}, "digest": None}, ensure_ascii=False),
        encoding="utf-8",
    )
    site = make_site(queues={"max_message_bytes": MIN_MESSAGE_BYTES}, worker={"bundle": str(bundle)})
    refs = site.submit([*(sign.data for sign in small_signs(20)), b"is no image"])
    assert site.start_worker().wait() == 0
    assert site.requests.counts().total == 0, "every request was deleted once its response was sent"
    left = list(site.left())
    answers = {each.image_id: each for each in left if isinstance(each, ClassificationResult)}
    stored = {each.pack_id for each in left if isinstance(each, StoredResults)}
    assert set(answers) | stored == {ref.image_id for ref in refs}
    assert bool(stored) == (not labels_sent)
    for ref in refs[:-1]:
        prediction, answer = site.prediction(ref), answers.get(ref.image_id)
        assert (len(prediction.top), len(prediction.probabilities)) == (site.config.worker.top_k, len(labels))
        assert prediction.label in labels
        if answer is not None:
            assert len(answer.top) in labels_sent
            assert (answer.label, answer.top) == (prediction.label, prediction.top[: len(answer.top)])
    rejected = answers[refs[-1].image_id]
    assert rejected.error is not None
    assert rejected.error == site.prediction(refs[-1]).error


@KINDS
def test_a_worker_serves_several_models_and_with_room_for_one_each_in_its_turn(
    make_site: SiteMaker, tmp_path: Path, kind: str
) -> None:
    own, other = load_bundle(), copy_with_other_labels(tmp_path / "other")
    site = make_site(queues={"kind": kind}, worker={"model_megabytes": 1, "call_threads": 2})
    signs = small_signs(40)
    some = JobModel("some", own.digest, str(DEMO_BUNDLE)).restricted(own.labels, own.labels[4:7]).requested
    models = [
        None,
        RequestedModel(digest=own.digest, place=str(DEMO_BUNDLE)),
        RequestedModel(digest=other.digest, place=str(other.folder)),
        some.model_copy(update={"only": None}),  # as a worker sees it that knows no `only`
        some,
    ]
    refs = [site.submit([sign.data], models[number % 5])[0] for number, sign in enumerate(signs)]
    worker = site.start_worker(FLEETSIGHT__WORKER__IDLE_SECONDS="4")
    results = site.collect(len(refs))
    assert worker.wait() == 0
    for number, (ref, sign) in enumerate(zip(refs, signs, strict=True)):
        [response], prediction = results[ref.image_id], site.prediction(ref)
        assert response.attempts == 1
        if number % 5 == 3:
            assert response.error == prediction.error == MODEL_GONE
            continue
        expected = other if number % 5 == 2 else own
        assert prediction.model is not None
        assert prediction.model.digest == expected.digest
        if number % 5 == 4:
            assert {each.label for each in response.top} == {*own.labels[4:7]}
            assert sum(each.score for each in prediction.top) == pytest.approx(sum(prediction.probabilities))
            assert response.possible_labels == 3
            assert float(sum(prediction.probabilities)) == pytest.approx(1, abs=1e-4)
            continue
        assert prediction.label == (sign.label if expected is own else f"other {sign.label}")
    loaded = [line["digest"] for line in worker.log() if line["message"] == "model loaded"]
    released = [line["digest"] for line in worker.log() if line["message"] == "model released"]
    assert other.digest in loaded
    assert own.digest in released
    assert site.requests.counts().total == site.dead_letters.counts().total == 0


def copy_with_other_labels(folder: Path) -> Bundle:
    """Return a copy of the demo bundle with labels, and so a digest, of its own."""
    shutil.copytree(DEMO_BUNDLE, folder)
    manifest = json.loads((folder / MANIFEST_NAME).read_text(encoding="utf-8"))
    labels = [f"other {label}" for label in manifest["labels"]]
    changes: dict[str, object] = {"name": "other", "labels": labels, "messages": {}, "digest": None}
    (folder / MANIFEST_NAME).write_text(json.dumps(manifest | changes), encoding="utf-8")
    return load_bundle(folder)


@KINDS
def test_row_6_sigterm_gives_back_what_has_not_started_and_costs_nothing(make_site: SiteMaker, kind: str) -> None:
    site = make_site(queues={"kind": kind}, worker={"call_threads": 1, "idle_seconds": NEVER_SECONDS})
    refs = site.submit(sign.data for sign in small_signs(80))
    worker = site.start_worker(("-c", signalled_in_the_middle(signal.SIGTERM)))
    assert worker.wait() == 0
    assert worker.log()[-1]["reason"] == "SIGTERM"
    assert_drained_in_the_middle(site, refs)


def assert_drained_in_the_middle(site: Site, refs: list[ImageRef]) -> None:
    """Assert that some images have one response each, and that the worker returned the rest as it received them."""
    counts = site.requests.counts()
    assert counts.in_flight == 0
    assert 0 < counts.visible < len(refs)
    answered = site.collect(len(refs) - counts.visible)
    assert all(len(responses) == 1 for responses in answered.values())
    left, _ = parse_messages(m for _ in range(counts.visible) for m in site.requests.receive(1, wait_seconds=1))
    assert {each.request.pack_id for each in left} == {ref.image_id for ref in refs} - set(answered)
    assert {each.receives for each in left} == {1}, "each is a new message"


@pytest.mark.parametrize(
    ("kind", "path", "document", "reason"),
    [
        ("standard", SPOT_ACTION, SPOT_NOTICE, "Spot notice: terminate"),
        ("fifo", f"tags/instance/{DRAIN_TAG}", "", "asked to drain"),
    ],
    ids=["Spot notice", "drain tag"],
)
def test_row_21_a_notice_in_the_middle_of_a_batch_drains_the_worker_and_costs_no_try(
    make_site: SiteMaker, kind: str, path: str, document: str, reason: str
) -> None:
    site = make_site(queues={"kind": kind}, worker={"call_threads": 1, "idle_seconds": NEVER_SECONDS})
    refs = site.submit(sign.data for sign in small_signs(80))
    with MetadataService.serve() as service:
        worker = site.start_worker(("-c", NOTICED), AWS_EC2_METADATA_SERVICE_ENDPOINT=service.url)
        wait_until(lambda: site.outputs.list_keys(refs[0].job_id, 1), "a prediction is stored")
        service.answers[path] = [(200, document)]
        assert worker.wait() == 0
    assert worker.log()[-1]["reason"] == reason
    assert_drained_in_the_middle(site, refs)


NOTICED = """
import itertools, os, sys
from concurrent.futures import Future
os.environ["OPENBLAS_NUM_THREADS"] = "1"
from app_tier import __main__, pipeline, startup
decode, watch = pipeline.decode, startup.watch_notices
count, watched = itertools.count(1), Future()
def decode_thirty(task, *rest):
    if next(count) > 30:
        watched.result().wait()
    return decode(task, *rest)
def watch_often(metadata, lifetime):
    watched.set_result(lifetime)
    watch(metadata, lifetime, every_seconds=0.05)
pipeline.decode, startup.watch_notices = decode_thirty, watch_often
sys.exit(__main__.main())
"""
"""A worker that polls for notices every 0.05 s and decodes thirty images before it gets one."""


def signalled_in_the_middle(number: signal.Signals) -> str:
    """Return the program of a worker that gets a signal when it decodes its thirtieth image."""
    return f"""
import itertools, os, sys
os.environ["OPENBLAS_NUM_THREADS"] = "1"  # as `main` does: a thread of OpenBLAS would not block the signal
from app_tier import __main__, pipeline
decode, count = pipeline.decode, itertools.count(1)
def signalled(task, *rest):
    if next(count) == 30:
        os.kill(os.getpid(), {number.value})
    return decode(task, *rest)
pipeline.decode = signalled
sys.exit(__main__.main())
"""


def test_sigterm_ends_a_worker_that_cannot_even_start(make_site: SiteMaker) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        worker = make_site().start_worker(FLEETSIGHT__AWS__ENDPOINT_URL=address)
        silent.settimeout(DEADLINE_SECONDS)
        connection, _ = silent.accept()
        with connection:
            worker.process.send_signal(signal.SIGTERM)
            assert worker.wait() == 0
    assert worker.log()[-1]["reason"] == "SIGTERM before the start"


@pytest.mark.parametrize("kind", ["standard", "fifo"])  # SQS refuses to receive, or has no message
def test_row_56_a_worker_stays_while_too_many_messages_are_in_flight(make_site: SiteMaker, kind: str) -> None:
    site = make_site(queues={"kind": kind, "visibility_timeout_seconds": 43_200})
    refs = site.submit(sign.data for sign in small_signs(3))
    site.cloud.set_switches(max_in_flight=2)
    try:
        held = site.requests.receive()
        assert len(held) == 2
        worker = site.start_worker(("-c", WITH_A_LIMIT_OF_TWO))

        def stays() -> int:
            words = {"too many messages are in flight; the worker waits", "could not receive; will try again"}
            return sum(line["message"] in words for line in worker.log())

        wait_until(lambda: stays() >= 3 or worker.process.poll() is not None, "the worker has been idle three times")
        assert worker.process.poll() is None
        site.requests.delete([held[0].receipt])
        assert site.collect(1).keys() == {refs[2].image_id}
        assert worker.wait() == 0
        assert worker.log()[-1]["reason"] == "idle for 1 s"
    finally:
        site.cloud.set_switches(max_in_flight=120_000)


WITH_A_LIMIT_OF_TWO = """
import sys
from app_tier import __main__, receiver
receiver.MAX_IN_FLIGHT = 2
sys.exit(__main__.main())
"""


def test_what_a_killed_worker_had_in_hand_gets_one_result_each(make_site: SiteMaker) -> None:
    site = make_site(queues={"visibility_timeout_seconds": 2})
    refs = site.submit(sign.data for sign in small_signs(60))
    first = site.start_worker(("-c", signalled_in_the_middle(signal.SIGKILL)))
    first.wait()
    assert site.requests.counts().in_flight > 0
    second = site.start_worker(FLEETSIGHT__WORKER__IDLE_SECONDS="5")
    results = site.collect(len(refs))
    assert second.wait() == 0
    assert site.requests.counts().total == 0
    assert site.dead_letters.counts().total == 0
    for ref in refs:
        assert {answer(response) for response in results[ref.image_id]} == {answer(site.prediction(ref))}


@pytest.mark.parametrize("kind", ["standard", "fifo"])  # the late deletion takes effect, or is refused
def test_row_4_a_worker_frozen_past_its_timeout_answers_late_and_changes_nothing(
    make_site: SiteMaker, kind: str
) -> None:
    """Also row 5: its receipts have expired."""
    site = make_site(queues={"kind": kind, "visibility_timeout_seconds": 2})
    refs = site.submit(sign.data for sign in small_signs(40))
    first = site.start_worker(("-c", signalled_in_the_middle(signal.SIGSTOP)))
    wait_until(lambda: state_of(first.process.pid) == "T", "the first worker stands still")
    assert site.requests.counts().in_flight > 0
    # Another worker: its own answers differ.
    second = site.start_worker(FLEETSIGHT__WORKER__IDLE_SECONDS="5", FLEETSIGHT__WORKER__TOP_K="1")
    assert second.wait() == 0
    answers = site.collect(len(refs))
    first.process.send_signal(signal.SIGCONT)
    assert first.wait() == 0
    late = [message for message in site.left() if isinstance(message, ClassificationResult)]
    assert late, "it had images in flight"
    for response in [*late, *(each for of_image in answers.values() for each in of_image)]:
        prediction = site.prediction(response.ref)
        assert (response.label, response.top) == (prediction.label, prediction.top)
    assert site.requests.counts().total == site.dead_letters.counts().total == 0


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["standard", "fifo"])
def test_row_10_a_worker_without_memory_ends_and_costs_no_image_more_than_a_try(
    make_site: SiteMaker, kind: str
) -> None:
    site = make_site(queues={"kind": kind, "visibility_timeout_seconds": 3})
    refs = site.submit(sign.data for sign in small_signs(100))
    first = site.start_worker(("-c", WITHOUT_MEMORY_IN_THE_MIDDLE))
    assert first.wait() != 0
    assert site.requests.counts().total > 0
    second = site.start_worker(FLEETSIGHT__WORKER__IDLE_SECONDS="7")
    results = site.collect(len(refs))
    assert second.wait() == 0
    answers = [response for of_image in results.values() for response in of_image]
    assert {response.status for response in answers} == {"done"}
    assert max(response.attempts for response in answers) <= 2
    assert site.requests.counts().total == site.dead_letters.counts().total == 0


WITHOUT_MEMORY_IN_THE_MIDDLE = """
import itertools, os, sys
from app_tier import __main__, pipeline
from tests.support.processes import take_memory
decode, count = pipeline.decode, itertools.count(1)
def exhausted(task, *rest):
    if next(count) == 5:  # before the heap has had room for all that is in hand
        take_memory([os.getpid()])
    return decode(task, *rest)
pipeline.decode = exhausted
sys.exit(__main__.main())
"""


@KINDS
@pytest.mark.parametrize("step", ["store", "respond", "delete"])
def test_row_2_a_worker_killed_between_two_steps_of_its_answer_leaves_one_result(
    make_site: SiteMaker, step: str, kind: str
) -> None:
    site = make_site(queues={"kind": kind, "visibility_timeout_seconds": 2})
    (sign,) = small_signs(1)
    (ref,) = site.submit([sign.data])
    site.start_worker(("-c", killed_before(step))).wait()
    stored = None if step == "store" else site.outputs.get(output_key(ref))
    # Another worker: its own answer would differ.
    second = site.start_worker(FLEETSIGHT__WORKER__IDLE_SECONDS="5", FLEETSIGHT__WORKER__TOP_K="1")
    assert second.wait() == 0
    left = list(site.left())
    responses = [each for each in left if isinstance(each, ClassificationResult)]
    assert len(responses) == (2 if step == "delete" else 1)
    produced = int(step == "store")
    assert sum(each.repeated for each in responses) == 1 - produced
    assert [each.images for each in left if isinstance(each, Heartbeat) and each.state == "ended"] == [produced]
    assert stored in {None, site.outputs.get(output_key(ref))}
    prediction = site.prediction(ref)
    assert {(each.label, each.top) for each in responses} == {(prediction.label, prediction.top)}
    assert len(prediction.top) == (1 if step == "store" else site.config.worker.top_k)
    assert site.requests.counts().total == site.dead_letters.counts().total == 0


def killed_before(step: str) -> str:
    """Return the program of a worker that is killed when it begins a step of its answers."""
    return f"""
import os, sys
os.environ["OPENBLAS_NUM_THREADS"] = "1"
from app_tier import __main__, pipeline
pipeline.{step} = lambda *_: os.kill(os.getpid(), 9)
sys.exit(__main__.main())
"""


def answer(response: ClassificationResult) -> tuple[str | None, float | None]:
    """What a reader sees; how a batch was made up may move the last digits."""
    return response.label, None if response.score is None else round(response.score, 3)


@KINDS
def test_row_9_an_image_that_ends_its_network_ends_one_worker_and_takes_no_neighbour_along(
    make_site: SiteMaker, kind: str
) -> None:
    site = make_site(queues={"kind": kind, "visibility_timeout_seconds": 1})
    signs = small_signs(12)
    poison = BytesIO()
    Image.new("RGB", (64, 64), "red").save(poison, "PNG")
    refs = site.submit([*(sign.data for sign in signs[:6]), poison.getvalue(), *(sign.data for sign in signs[6:])])
    first, second = (
        site.start_worker(("-c", CRASHING_NETWORK), FLEETSIGHT__WORKER__IDLE_SECONDS="4").wait() for _ in range(2)
    )
    assert (first != 0, second) == (True, 0)
    results = site.collect(13)
    assert results.pop(refs[6].image_id)[0].error == site.prediction(refs[6]).error == CRASHED_ALONE
    assert {answer.status for answers in results.values() for answer in answers} == {"done"}
    assert site.requests.counts().total == site.dead_letters.counts().total == 0


CRASHING_NETWORK = """
import sys
from app_tier import __main__
import tests.support.crashing_network
sys.exit(__main__.main())
"""


def test_row_9_an_image_that_crashes_its_decoder_twice_fails_alone(make_site: SiteMaker) -> None:
    site = make_site(worker={"threads": 2, "decode_seconds": 1})
    signs = small_signs(12)
    poisons = [b"SIGSEGV", b"SIGABRT", b"SIGKILL", b"SIGSTOP"]
    refs = site.submit([*(sign.data for sign in signs[:6]), *poisons, *(sign.data for sign in signs[6:])])
    worker = site.start_worker(("-c", CRASHING_DECODER))
    results = site.collect(len(refs))
    assert worker.wait() == 0
    (codes,) = [[(each := results[ref.image_id][0].error) and each.code for ref in refs]]
    assert codes == [None] * 6 + ["undecodable", "undecodable", "too_costly", "too_costly"] + [None] * 6
    assert all(answer.attempts == 1 for answers in results.values() for answer in answers)
    assert site.requests.counts().total == site.dead_letters.counts().total == 0


CRASHING_DECODER = """
import sys
from app_tier import __main__
__main__.DECODER = "tests.support.sandboxed_functions:crash"
sys.exit(__main__.main())
"""


def test_a_bundle_whose_digest_does_not_match_is_refused_before_any_poll(
    make_site: SiteMaker, tmp_path: Path
) -> None:
    damaged = tmp_path / "bundle"
    shutil.copytree(ROOT / "app_tier" / "demo" / "bundle", damaged)
    weights = damaged / "model.bin"
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)
    site = make_site(worker={"bundle": str(damaged)})
    site.submit([b"anything"])
    worker = site.start_worker()
    assert worker.wait() == 1
    assert worker.log()[-1]["message"] == "not started"
    assert "model.bin" in worker.log()[-1]["reason"]
    [only] = site.heartbeats()
    assert (only.state, only.end, "model.bin" in only.reason) == ("ended", "failed", True)
    assert site.requests.receive(wait_seconds=0)[0].receive_count == 1
