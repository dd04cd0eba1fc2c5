"""`docs/faults.md` rows 9 and 33: each image gets its pixels or its reason, whatever its decoder does."""

import random
import signal
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Any

import pytest
from PIL import Image

from app_tier.__main__ import DECODER
from app_tier.decode import MAX_ANSWER_BYTES, THUMBNAIL_SIDE, Decoder, Pixels, decode, sandboxed_decoder
from app_tier.task import Task, new_task
from core.config import Config
from core.images import BYTES_A_PIXEL, FORMATS, ImageLimits, ImageRejectedError, thumbnail_type
from core.sandbox.pool import Allowance, SandboxPool
from core.sandbox.process import CrashedError, PoolUnavailableError, SandboxError, TooCostlyError
from core.sandbox.zygote import Zygote
from tests.support.hostile_images import BOMBS, HONEST, POLYGLOTS, png_bomb
from tests.support.processes import other_machine
from tests.support.unsandboxed import central_crop
from tests.support.worker import colour_bundle, delivery, picture

SPEC = colour_bundle().manifest.preprocess
LIMITS = ImageLimits()
SQUARE_BYTES = 3 * SPEC.input_size**2


def decoded_task(data: bytes, limits: ImageLimits = LIMITS, decoder: Decoder = central_crop) -> Task[Pixels]:
    return decode(new_task(delivery()).with_payload(data), SPEC, limits, decoder)


def decoded(data: bytes, limits: ImageLimits = LIMITS, decoder: Decoder = central_crop) -> object:
    return decoded_task(data, limits, decoder).payload


def thumbnail_of(data: bytes) -> bytes:
    thumbnail = decoded_task(data).content.thumbnail
    assert thumbnail is not None
    return thumbnail


@pytest.mark.parametrize(
    ("error", "code"), [(TooCostlyError("too long"), "too_costly"), (CrashedError("SIGSEGV"), "undecodable")]
)
def test_what_ends_a_decoding_process_is_the_fault_of_the_image_with_a_clear_reason(
    error: SandboxError, code: str
) -> None:
    with pytest.raises(ImageRejectedError) as refused:
        decoded(picture("red"), decoder=failing(error))
    assert refused.value.code == code
    assert "save it again" in refused.value.message
    assert str(error) not in refused.value.message


def failing(error: Exception) -> Decoder:
    def decoder(data: bytes, job_id: str, **settings: object) -> bytes:
        raise error

    return decoder


SQUARE = bytes(SQUARE_BYTES)


@pytest.mark.parametrize(
    "answer", [b"", SQUARE[1:], SQUARE + b"\0", SQUARE[1:] + b"{}", SQUARE + b"[]", SQUARE + b'{"thumbnail": "PGh0"}']
)
def test_an_answer_of_other_pixels_or_no_content_is_not_believed(answer: bytes) -> None:
    def decoder(data: bytes, job_id: str, **settings: object) -> bytes:
        return answer

    with pytest.raises(ImageRejectedError) as refused:
        decoded(picture("red"), decoder=decoder)
    assert refused.value.code == "undecodable"


def test_images_are_decoded_for_their_user_or_for_their_job_if_it_is_unknown() -> None:
    owners = []

    def decoder(data: bytes, owner: str, **settings: Any) -> bytes:
        owners.append(owner)
        return central_crop(data, owner, **settings)

    deliveries = [delivery(), delivery(), delivery(group="alice"), delivery(group="alice")]
    for each in deliveries:
        decode(new_task(each).with_payload(picture("red")), SPEC, LIMITS, decoder)
    assert owners == [*(each.request.job_id for each in deliveries[:2]), "alice", "alice"]
    assert owners[0] != owners[1]


def test_the_thumbnail_of_an_image_is_small_and_upright() -> None:
    photo, exif = BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (1600, 1200), "green").save(photo, "JPEG", exif=exif)
    small = Image.open(BytesIO(thumbnail_of(photo.getvalue())))
    assert (small.format, small.size) == ("JPEG", (THUMBNAIL_SIDE, THUMBNAIL_SIDE * 4 // 3))


def test_the_thumbnail_of_the_longest_image_is_small() -> None:
    line = BytesIO()
    Image.new("RGB", (1_000_000, 1)).save(line, "PNG")
    assert Image.open(BytesIO(thumbnail_of(line.getvalue()))).size == (4 * THUMBNAIL_SIDE, 1)


def test_noise_has_a_label_even_if_its_thumbnail_is_too_large() -> None:
    noise = BytesIO()
    Image.frombytes("RGBA", (1280, 320), random.Random(0).randbytes(1280 * 320 * 4)).save(noise, "PNG")
    task = decoded_task(noise.getvalue())
    assert (task.payload.shape, task.content.thumbnail) == ((3, 8, 8), None)


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    made = Zygote(DECODER)
    yield made
    made.close()


@pytest.fixture(scope="module")
def decoder(zygote: Zygote) -> SandboxPool:
    return SandboxPool(zygote, Allowance(20, BYTES_A_PIXEL * LIMITS.max_pixels, MAX_ANSWER_BYTES), max_processes=1)


EVERY_KIND: dict[str, Callable[[], bytes]] = HONEST | {kind: make for kind, (_, make) in POLYGLOTS.items()}


@pytest.mark.processes
@pytest.mark.parametrize("kind", EVERY_KIND)
def test_row_33_a_sandboxed_process_gives_every_image_the_same_pixels_or_reason(
    kind: str, decoder: SandboxPool
) -> None:
    def outcome(data: bytes, way: Decoder) -> object:
        try:
            task = decoded_task(data, decoder=way)
        except ImageRejectedError as error:
            return error.code, error.message
        return task.payload.tobytes(), task.content

    whole = EVERY_KIND[kind]()
    for data in (whole, whole[:-25]):
        assert outcome(data, decoder) == outcome(data, central_crop)
    assert thumbnail_type(thumbnail_of(whole))


@pytest.mark.processes
@pytest.mark.parametrize(
    "more", [{"fit": "stretch"}, {"fit": "pad", "fill": (9, 99, 200), "interpolation": "bicubic"}]
)
def test_a_sandboxed_process_stretches_and_pads_alike(more: dict[str, object], decoder: SandboxPool) -> None:
    spec = SPEC.model_copy(update={"resize": (6, 8), "crop": (6, 8), **more})
    task = new_task(delivery()).with_payload(HONEST["progressive jpeg"]())
    ours, theirs = (decode(task, spec, LIMITS, way).payload for way in (decoder, central_crop))
    assert ours.shape == (3, 6, 8)
    assert (ours == theirs).all()


@pytest.mark.processes
@pytest.mark.parametrize("name", FORMATS)
def test_no_format_takes_more_memory_than_a_pixel_may(name: str, zygote: Zygote) -> None:
    """Row 34: an honest image of the most pixels that are allowed is not too costly."""
    side = 1_800  # 10 MB as BMP
    allowance = Allowance(20, BYTES_A_PIXEL * side**2, MAX_ANSWER_BYTES)
    body = BytesIO()
    Image.new("RGB", (side, side), "red").save(body, name, lossless=True)
    assert decoded(body.getvalue(), decoder=SandboxPool(zygote, allowance, max_processes=1)) is not None


@pytest.mark.processes
@pytest.mark.parametrize("kind", BOMBS)
def test_row_34_a_bomb_that_the_limits_let_through_ends_itself_alone(zygote: Zygote, kind: str) -> None:
    decoder = SandboxPool(zygote, Allowance(20, 20 * 2**20, MAX_ANSWER_BYTES), max_processes=1)
    with pytest.raises(ImageRejectedError) as refused:
        decoded(BOMBS[kind][1](), decoder=decoder)
    assert refused.value.code == "too_costly"
    assert decoded(picture("red"), decoder=decoder) is not None


@pytest.mark.processes
def test_row_9_a_decoder_that_a_fault_ends_gives_a_reason_and_decodes_the_next_image(
    decoder: SandboxPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    crashing = Zygote("tests.support.sandboxed_functions:crash")
    poisoned = SandboxPool(crashing, Allowance(5, 2**26, MAX_ANSWER_BYTES), max_processes=1)
    with pytest.raises(ImageRejectedError) as refused:
        decoded(signal.SIGSEGV.name.encode(), decoder=poisoned)
    assert refused.value.code == "undecodable"
    assert decoded(picture("red"), decoder=poisoned) is not None
    crashing.close()


@pytest.mark.processes
def test_a_large_image_that_ends_early_is_truncated_and_not_too_costly(config: Config, zygote: Zygote) -> None:
    with pytest.raises(ImageRejectedError) as refused:
        decoded(png_bomb(7_000, 7_000)[:1_000], decoder=sandboxed_decoder(zygote, config, 1))
    assert refused.value.code == "truncated"


def test_a_worker_does_not_start_where_its_decoders_cannot_be_limited(config: Config) -> None:
    zygote = Zygote(DECODER)
    with other_machine(), pytest.raises(PoolUnavailableError, match="seccomp"):
        sandboxed_decoder(zygote, config, 1).prepare()
    zygote.close()


def test_a_decoder_may_take_what_the_costliest_image_takes(config: Config) -> None:
    zygote = Zygote(DECODER)
    derived = sandboxed_decoder(zygote, config, 1).allowance
    assert derived.memory_bytes > BYTES_A_PIXEL * LIMITS.max_pixels
    assert (derived.seconds, derived.answer_bytes) == (config.worker.decode_seconds, MAX_ANSWER_BYTES)
