"""The worker's way from a JPEG to the network's input, against a full decode by Pillow and torchvision's transforms.

Both ways start from the same bytes in memory and run on one thread, in turns. CPU time counts, which other work of
the machine changes least. Agreement is that of the whole chain: how many images the demo network, in float32, gives
the same label both ways. It sees the 224 pixels of ImageNet's networks shrunk to its own 32. What a decode at a
reduced scale changes of the 224 pixels is measured against the worker's own full decode.

One photo is saved in each accepted format, too: the worker's time for it, as a multiple of the time for the JPEG, and
the least memory with which a sandboxed process decodes it, in bytes a pixel.
"""

import random
import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from io import BytesIO
from typing import Any, Final

import numpy as np
import pillow_heif
from numpy.typing import NDArray
from PIL import Image

from app_tier.__main__ import DECODER
from app_tier.bundle import load_bundle
from app_tier.engine_imports import import_torch
from app_tier.engines import open_engine
from app_tier.preprocess import load_pixels, load_square
from benchmarks.report import Bar, Report, seconds_of
from core.bundle_manifest import Preprocess
from core.images import BYTES_A_PIXEL, FORMATS, ImageLimits
from core.sandbox.pool import Allowance, SandboxPool
from core.sandbox.process import CrashedError, TooCostlyError
from core.sandbox.zygote import Zygote
from scripts.demo_model.signs import SIGN_LABELS, draw, encode

Pixels = NDArray[np.float32]
Way = Callable[[bytes], Pixels]
IMAGENET: Final = Preprocess(resize=256, crop=224, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
TIMED: Final = 10
"""Images that are timed; all are compared."""

_LIMITS: Final = ImageLimits(max_bytes=2**30)
_DECODE_SECONDS: Final = 60.0


@dataclass(frozen=True)
class Kind:
    """A kind of photo: drawn at `size`, enlarged `enlarge` times, then noise of ±`noise` grey levels."""

    name: str
    size: tuple[int, int]
    enlarge: int
    noise: int
    quality: int


KINDS: Final = (
    Kind("100_kb", (1024, 768), 1, 2, 80),
    Kind("12_megapixels", (1000, 750), 4, 6, 88),
)


def run(quick: bool) -> Report:
    """Measure both kinds of photo, for the demo network (32 pixels) and for ImageNet's 224."""
    demo = load_bundle().manifest.preprocess
    figures: dict[str, float] = {}
    for kind, count in zip(KINDS, (60, 12) if quick else (400, 200), strict=True):
        photos = [photo(kind, seed) for seed in range(count)]
        figures[f"{kind.name}_mean_kb"] = sum(map(len, photos)) / len(photos) / 1024
        for name, spec in (("demo", demo), ("224", IMAGENET)):
            begin, timed = f"{kind.name}_{name}", photos[:TIMED]
            own, reference = ours(spec), torchvision_way(spec)
            own_s = reference_s = 0.0
            for data in timed:  # in turns, the faster of two
                own_s += seconds_of(partial(own, data), 2, time.process_time)
                reference_s += seconds_of(partial(reference, data), 2, time.process_time)
            figures[f"{begin}_ours_ms"] = 1e3 * own_s / len(timed)
            figures[f"{begin}_reference_ms"] = 1e3 * reference_s / len(timed)
            figures[f"{begin}_ratio"] = reference_s / own_s
        figures[f"{kind.name}_agreement"] = agreement(photos, demo)
        figures[f"{kind.name}_224_agreement"] = agreement(photos, as_demo(IMAGENET, demo))
        figures[f"{kind.name}_224_grey_levels"] = sum(map(reduced_change, photos)) / len(photos)
    figures |= by_format(replace(KINDS[1], enlarge=1) if quick else KINDS[1])
    bars = (
        Bar("12 megapixels to 32: times as fast", figures["12_megapixels_demo_ratio"], at_least=3),
        Bar("12 megapixels to 224: times as fast", figures["12_megapixels_224_ratio"], at_least=4),
        Bar("12 megapixels: same label", figures["12_megapixels_agreement"], at_least=0.995),
        Bar("12 megapixels to 224: same label", figures["12_megapixels_224_agreement"], at_least=0.995),
        Bar("12 megapixels to 224: mean change, grey levels", figures["12_megapixels_224_grey_levels"], at_most=0.5),
        Bar("100 KB: same label", figures["100_kb_agreement"], at_least=0.995),
        *(
            Bar(f"{name}: bytes a pixel", figures[f"format_{name}_bytes_a_pixel"], at_most=BYTES_A_PIXEL)
            for name in FORMATS
        ),
    )
    return Report("decode", figures, bars)


def photo(kind: Kind, seed: int) -> bytes:
    """Return a JPEG of a drawn sign; enlarged and grained it has the entropy of a camera's."""
    drawn, _ = draw(seed % len(SIGN_LABELS), seed, kind.size)
    large = drawn.resize((drawn.width * kind.enlarge, drawn.height * kind.enlarge), Image.Resampling.BICUBIC)
    grain = np.frombuffer(random.Random(seed).randbytes(large.width * large.height), np.uint8) % (2 * kind.noise + 1)  # nosec B311 # noise in a picture
    grained = np.asarray(large, np.int16) + grain.reshape(large.height, large.width, 1) - kind.noise
    return encode(Image.fromarray(grained.clip(0, 255).astype(np.uint8)), "JPEG", kind.quality)


def by_format(kind: Kind) -> dict[str, float]:
    """Return the time and the memory of one photo in each format, decoded for ImageNet's 224 pixels."""
    pillow_heif.register_heif_opener()  # Pillow can save HEIC now
    picture = Image.open(BytesIO(photo(kind, 0)))
    figures: dict[str, float] = {}
    for name in FORMATS:
        body = BytesIO()
        options: dict[str, Any] = {"compression": "tiff_lzw"} if name == "TIFF" else {"quality": 80, "speed": 8}
        picture.save(body, name, **options)
        data = body.getvalue()
        seconds = seconds_of(partial(ours(IMAGENET), data), 3, time.perf_counter)
        figures[f"format_{name}_ms"] = 1e3 * seconds
        figures[f"format_{name}_times_jpeg"] = 1e3 * seconds / figures["format_JPEG_ms"]
        figures[f"format_{name}_bytes_a_pixel"] = least_memory(data, picture.width * picture.height)
    return figures


def least_memory(data: bytes, pixels: int) -> float:
    """Return the bytes of memory for each pixel with which a sandboxed process decodes an image."""
    zygote = Zygote(DECODER)

    def is_enough(bytes_a_pixel: int) -> bool:
        allowance = Allowance(_DECODE_SECONDS, bytes_a_pixel * pixels, 3 * IMAGENET.input_size**2)
        pool = SandboxPool(zygote, allowance, max_processes=1)
        try:
            pool(data, "", limits=_LIMITS, framing=IMAGENET.framing)
        except (TooCostlyError, CrashedError):
            return False
        return True

    least = bisect_left(range(2 * BYTES_A_PIXEL), True, key=is_enough)
    zygote.close()
    return least


def ours(spec: Preprocess) -> Way:
    """Return the worker's way."""
    return lambda data: load_pixels(data, spec, _LIMITS)


def torchvision_way(spec: Preprocess) -> Way:
    """Return the usual way: everything is decoded, then shrunk, cut and normalised."""
    import_torch().set_num_threads(1)
    from torchvision import transforms

    chain: Any = transforms.Compose(
        [
            transforms.Resize(spec.resize),
            transforms.CenterCrop(spec.crop),
            transforms.ToTensor(),
            transforms.Normalize(spec.mean, spec.std),
        ]
    )

    def load(data: bytes) -> Pixels:
        pixels: Pixels = chain(Image.open(BytesIO(data)).convert("RGB")).numpy()
        return pixels

    return load


def as_demo(spec: Preprocess, demo: Preprocess) -> Preprocess:
    """Return `spec` with the colours of the demo network."""
    return spec.model_copy(update={"mean": demo.mean, "std": demo.std})


def reduced_change(data: bytes) -> float:
    """Return how far decoding at a reduced scale moves the 224 x 224 pixels of a photo, in grey levels on average."""
    reduced, full = (load_square(data, IMAGENET, _LIMITS, full_resolution=full) for full in (False, True))
    return float(np.abs(reduced.astype(np.int16) - full).mean())


def agreement(photos: Sequence[bytes], spec: Preprocess) -> float:
    """Return the share of `photos` that the demo network, at its own size, gives the same label both ways."""
    bundle = load_bundle()
    engine, side = open_engine("openvino", bundle, threads=1), bundle.manifest.preprocess.input_size

    def label(pixels: Pixels) -> int:
        shrunk = pixels.reshape(3, side, spec.input_size // side, side, spec.input_size // side).mean((2, 4))
        return int(engine.infer(shrunk[None]).argmax())

    first, second = ([label(way(data)) for data in photos] for way in (ours(spec), torchvision_way(spec)))
    return sum(a == b for a, b in zip(first, second, strict=True)) / len(photos)
