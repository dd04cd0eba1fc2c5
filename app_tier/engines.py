"""The engines that run a bundle's network: OpenVINO on a CPU, or torch (a GPU where there is one; the reference)."""

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import Empty, LifoQueue
from threading import Lock
from typing import Any, Final, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from app_tier.bundle import Bundle, EngineError
from app_tier.engine_imports import export_warnings_off, import_openvino, import_torch
from core.bundle_manifest import (
    INT8_IR_NAME,
    INT8_WEIGHTS_NAME,
    IR_NAME,
    IR_WEIGHTS_NAME,
    TORCH_NAME,
    Manifest,
    NumberType,
    Precision,
)
from core.config import EngineName
from services.clock import CLOCK, Clock

_log = logging.getLogger(__name__)

Batch = NDArray[np.float32]
Possible = NDArray[np.bool_]
"""Which labels can occur in each image, [N, classes]."""

ENGINES: Final = get_args(EngineName)

MAX_WAIT_SECONDS: Final = 60.0
"""Seconds that a call waits for an inference request before it takes the engine for hung."""

# What is left of an int8 network, its softmax, is as fast in fp32 as in bf16.
_OPENVINO_TYPES: Final[dict[NumberType, str]] = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}

CPUINFO: Final = Path("/proc/cpuinfo")

_DOT_PRODUCTS: Final = frozenset({"avx512_vnni", "avx_vnni", "amx_int8", "asimddp"})
"""What Linux calls the instructions that multiply int8 and add up in int32 at once, on x86 and on ARM."""

AT_ONCE: Final = 4
"""Images that are asked again in one batch: 15% faster than alone, and eight are 1% faster still."""

MIN_GAIN: Final = 1.1
"""How many times as fast as fp32 alone low precision first must be: less than a tenth is within what timings differ
by, and not worth the memory of a second network."""

TRIAL_BATCHES: Final = 4
"""Batches in which both networks are timed before a worker chooses between them."""

RECHECK_BATCHES: Final = 1000
"""Batches after which a worker times both networks again: later images may be easier or harder than earlier ones."""

RECENT_IMAGES: Final = 64
"""Images over which the share that is asked again is averaged."""

EXPECTED_IMAGES: Final = 8
"""Images that the share measured at build counts as."""

_TINY: Final = np.finfo(np.float32).tiny


class Engine(Protocol):
    """A network that is ready to answer, to as many threads at once as it was opened with streams."""

    def infer(self, batch: Batch, possible: Possible | None = None) -> Batch:
        """Map float32 [N, 3, H, W], made by `app_tier.preprocess.load_pixels`, to probabilities [N, classes].

        Those of labels that are not `possible` are 0; the others keep their ratios and what is no number.
        """
        ...


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A bundle in memory, ready to classify.

    Attributes:
        batch_size: images in one run of the network, at most.
    """

    bundle: Bundle
    engine: Engine
    batch_size: int


def open_engine(
    name: str, bundle: Bundle, threads: int = 1, precision: Precision | None = None, streams: int = 1
) -> Engine:
    """Open the engine `name` on a bundle with digests that have been checked.

    Args:
        name: "openvino" or "torch".
        bundle: what to run.
        threads: of the CPU, all streams together.
        precision: None for the bundle's own where the device is fast at it, and fp32 elsewhere: on a CPU without
            bf16 or int8, and for torch on any CPU, where it is the reference.
        streams: batches that are computed side by side, each asked for by a thread of its own. Torch computes one
            after the other.

    Raises:
        EngineError: there is no such engine, or it cannot run this bundle here.
    """
    kind, low = _engine_kind(name), bundle.manifest.low_precision
    if precision is None:
        precision = chosen_precision(name, bundle.manifest)
    opens = partial(kind, bundle, threads, streams=streams)
    if precision != "exact":
        return opens(precision=precision)
    if bundle.manifest.margin is None:
        raise EngineError(
            f"bundle {bundle.name} has no measured margin for exact answers: build it with --precision exact"
        )
    low, measured = low or "bf16", bundle.manifest.measured
    return ExactEngine(
        opens(precision=low),
        opens(precision="fp32"),
        bundle.manifest.margin,
        low,
        measured.repeated if measured is not None else 0.0,
    )


def chosen_precision(name: str, manifest: Manifest) -> Precision:
    """Return the precision in which the engine `name` computes a bundle on this device: its own if that is fast here.

    Raises:
        EngineError: there is no such engine.
    """
    low = manifest.low_precision
    return manifest.precision if low is not None and _engine_kind(name).is_fast_in(low) else "fp32"


def weights_bytes(name: str, bundle: Bundle) -> int:
    """Return the bytes of the weights that the engine `name` loads of a bundle, at most.

    Raises:
        BundleMissingError: the bundle has no network for this engine.
    """
    manifest = bundle.manifest
    fp32 = TORCH_NAME if name == "torch" else IR_WEIGHTS_NAME
    has_int8 = name == "openvino" and manifest.low_precision == "int8"
    files = [fp32, *([INT8_WEIGHTS_NAME] if has_int8 else [fp32] if manifest.precision == "exact" else [])]
    return sum(bundle.path(file).stat().st_size for file in files)


def _engine_kind(name: str) -> "type[OpenVinoEngine | TorchEngine]":
    if name not in ENGINES:
        raise EngineError(f"no engine {name!r}: set engine to one of {', '.join(ENGINES)}")
    return OpenVinoEngine if name == "openvino" else TorchEngine


class OpenVinoEngine:
    """OpenVINO on `threads` CPU threads, in the precision asked for, also if the machine is faster in another.

    One network serves every batch size: fixed sizes were at most 7% faster, and each would be compiled by itself.
    It prepares itself for each size that it sees, and keeps memory for it: with sizes from 1 to 8, EfficientNet-Lite0
    took 180 MB, with 1, 2 and 4 it takes 60. So it sees only powers of two.
    It answers `streams` threads at once, each on its share of the CPU's; one more waits until a stream is free.

    Raises:
        EngineError: OpenVINO cannot read or compile the network.
    """

    def __init__(self, bundle: Bundle, threads: int = 1, precision: NumberType = "fp32", streams: int = 1) -> None:
        settings: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": _OPENVINO_TYPES[precision],
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": streams,
            # Two one-thread networks in one process share a core, and run at half speed, while they are pinned.
            "ENABLE_CPU_PINNING": False,
        }
        network = bundle.path(INT8_IR_NAME if precision == "int8" else IR_NAME)
        try:
            self._network = import_openvino().Core().compile_model(str(network), "CPU", settings)
        except RuntimeError as error:
            raise EngineError(f"OpenVINO cannot run bundle {bundle.name}: {str(error).strip()}") from error
        self._failure = ""
        # Last in, first out: a lone caller always gets the request with warm memory.
        self._idle: LifoQueue[Any] = LifoQueue(streams)
        for _ in range(streams):
            self._idle.put_nowait(self._network.create_infer_request())

    @staticmethod
    def is_fast_in(precision: NumberType) -> bool:
        """Whether this CPU has instructions for `precision`, by OpenVINO's own list and that of the CPU."""
        if precision == "int8" and not has_int8_dot_products():
            return False
        capabilities = import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        return precision.upper() in capabilities

    def infer(self, batch: Batch, possible: Possible | None = None) -> Batch:
        """Map a batch to probabilities, as `Engine.infer`.

        Raises:
            EngineError: every stream has been busy for `MAX_WAIT_SECONDS`, or OpenVINO has failed, now or before: a
                network that once had no memory for a batch may answer later ones wrongly, without an error.
        """
        pixels, answered = np.ascontiguousarray(batch, np.float32), list[Batch]()
        with self._request() as request:
            if self._failure:
                raise EngineError(self._failure)
            try:
                while len(pixels):
                    part, pixels = np.split(pixels, [1 << (len(pixels).bit_length() - 1)])
                    # `infer` would be shorter, but where a node of the network gets no memory, that of OpenVINO
                    # 2026.4 raises nothing: it returns the answers of an earlier batch.
                    request.start_async([part], share_inputs=True)
                    request.wait()
                    # The result is the request's own memory, which its next call overwrites: keep a copy.
                    answered.append(np.array(request.get_output_tensor().data, np.float32))
            except (RuntimeError, MemoryError) as error:
                self._failure = f"OpenVINO failed on {len(batch)} images: {str(error).strip()}"
                raise EngineError(self._failure) from error
        return of_possible(np.concatenate(answered), possible)

    @contextmanager
    def _request(self) -> Iterator[Any]:
        """An inference request that no other thread has in the meantime."""
        try:
            request = self._idle.get(timeout=MAX_WAIT_SECONDS)
        except Empty as error:
            raise EngineError(
                f"no stream was free for {MAX_WAIT_SECONDS:g} s: "
                "more threads ask than there are streams, or one hangs"
            ) from error
        try:
            yield request
        finally:
            self._idle.put_nowait(request)


class TorchEngine:
    """The exported network on torch: on the GPU where CUDA has one, else on `threads` CPU threads of this process.

    Weights and pixels lie channels-last, which is how tensor cores read them; pixels travel from pinned memory, so
    that the copy is a direct one. Batches are computed one at a time, also with several `streams`: torch's threads
    are the process's, and a GPU is filled by one.

    Raises:
        EngineError: torch is not installed, or the bundle holds no network for it.
    """

    def __init__(
        self,
        bundle: Bundle,
        threads: int = 1,
        precision: NumberType = "fp32",
        streams: int = 1,  # noqa: ARG002
    ) -> None:
        torch = import_torch()
        torch.set_num_threads(threads)
        self._torch = torch
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        if self._device == "cpu":
            _log.warning("torch has found no GPU and computes on the CPU, where the engine openvino is faster")
        self._form = {
            "dtype": torch.bfloat16 if precision == "bf16" else torch.float32,
            "memory_format": torch.channels_last,
        }
        with export_warnings_off():
            network = torch.export.load(bundle.path(TORCH_NAME)).module()
        self._network = network.to(self._device, **self._form)
        self._one_at_a_time = Lock()

    @staticmethod
    def is_fast_in(precision: NumberType) -> bool:
        """Whether there is a GPU that computes in bf16; a CPU always counts as the fp32 reference."""
        cuda = import_torch().cuda
        return bool(precision == "bf16" and cuda.is_available() and cuda.is_bf16_supported(including_emulation=False))

    def infer(self, batch: Batch, possible: Possible | None = None) -> Batch:
        """Map a batch to probabilities, as `Engine.infer`."""
        pixels = self._torch.from_numpy(np.ascontiguousarray(batch, np.float32))
        if self._device != "cpu":
            pixels = pixels.pin_memory()
        with self._one_at_a_time, self._torch.inference_mode():
            moved = pixels.to(self._device, non_blocking=True).to(**self._form)
            probabilities: Batch = self._network(moved).float().cpu().numpy()
        return of_possible(probabilities, possible)


class ExactPace:
    """Which way to exact answers is faster on this CPU: low precision first, or fp32 alone.

    It knows no clock: it is told how long each pass took, and counts the fastest, since what else the machine does
    only slows. What a batch costs follows from three figures: seconds of an image in low precision, seconds of an
    image in fp32, and the share of the images that are asked again.

    Args:
        expected_share: of the images that are asked again, 0 to 1, as measured when the bundle was built.

    Attributes:
        is_low_first: the choice; low precision first until both have been timed.
        share: of the latest images that were asked again, 0 to 1.
    """

    def __init__(self, expected_share: float = 0.0) -> None:
        self._expected_share = expected_share
        self.is_low_first = True
        self._start_trial()

    def _start_trial(self) -> None:
        self.share = self._expected_share
        self._low_seconds = self._fp32_seconds = math.inf
        self._batches = self._images = self._timed = 0

    @property
    def gain(self) -> float:
        """How many times as fast as fp32 alone low precision first is; 0 before both have been timed."""
        if math.isinf(self._low_seconds) or math.isinf(self._fp32_seconds):
            return 0.0
        exact_seconds = self._low_seconds + self.share * self._fp32_seconds
        return self._fp32_seconds / exact_seconds if exact_seconds else 0.0

    @property
    def has_chosen(self) -> bool:
        """Whether both ways have been timed often enough."""
        return self._timed >= TRIAL_BATCHES

    def next_batch(self) -> tuple[bool, bool]:
        """Return whether low precision shall answer the next batch first, and whether fp32 shall be timed with it.

        Nothing is timed with the first batch, which comes on top of a worker's start.
        """
        if self._batches >= RECHECK_BATCHES:
            self._start_trial()
        self._batches += 1
        if self.has_chosen:
            return self.is_low_first, False
        return True, self._batches > 1

    def passed(self, images: int, unsure: int, low_seconds: float, again: int, fp32_seconds: float) -> None:
        """Count a batch that low precision has answered first, and choose.

        Args:
            images: in the batch.
            unsure: how many of them had to be asked again.
            low_seconds: what the first pass took.
            again: how many images fp32 was timed with; 0 if it was not.
            fp32_seconds: what that took.
        """
        self._images += images
        weight = images / max(images, min(RECENT_IMAGES, EXPECTED_IMAGES + self._images))
        self.share += weight * (unsure / images - self.share)
        self._low_seconds = min(self._low_seconds, low_seconds / images)
        if again:
            self._fp32_seconds = min(self._fp32_seconds, fp32_seconds / again)
            self._timed += 1
        if self.has_chosen:
            self.is_low_first = self.gain >= MIN_GAIN


class ExactEngine:
    """Give fp32's labels at nearly the speed of low precision where that is faster, and at fp32's where it is not.

    It asks `fast` about all images, and `reference` again about each image with a top-two gap below `margin`. Low
    precision moves a network's logits a little, so it changes an answer only if the two best are close. How close is
    measured when a bundle is built (`scripts.model.precision`) and kept in the bundle as its margin.

    How much faster low precision is depends on the CPU, and how often it has to ask again on the images. So the
    engine times what it does, and asks `reference` alone where that is faster (`ExactPace`). For that, `AT_ONCE`
    images are asked again in `TRIAL_BATCHES` of `RECHECK_BATCHES` batches: below 1% of the time.

    Args:
        fast: answers first.
        reference: has the last word.
        margin: difference of the two best logits below which it is asked.
        low: number type of `fast`, for the log.
        expected_share: of the images that are asked again, as measured when the bundle was built.
    """

    def __init__(
        self,
        fast: Engine,
        reference: Engine,
        margin: float,
        low: str = "low precision",
        expected_share: float = 0.0,
        clock: Clock = CLOCK,
    ) -> None:
        self._fast, self._reference, self._margin = fast, reference, margin
        self._low, self._clock = low, clock
        self._lock, self._pace, self._logged = Lock(), ExactPace(expected_share), ""

    @property
    def is_low_first(self) -> bool:
        """Whether low precision is asked first; False where fp32 alone was measured as faster."""
        return self._pace.is_low_first

    def infer(self, batch: Batch, possible: Possible | None = None) -> Batch:
        """Map a batch to probabilities, as `Engine.infer`."""
        with self._lock:
            is_low_first, is_trial = self._pace.next_batch()
        if not is_low_first:
            return self._reference.infer(batch, possible)
        started = self._clock.monotonic()
        probabilities = self._fast.infer(batch, possible)
        low_seconds = self._clock.monotonic() - started
        unsure = left = np.flatnonzero(~(top_two_gap(probabilities) >= self._margin))  # also what is no number
        started = self._clock.monotonic()
        while len(left):
            part, left = np.split(left, [_at_once(len(left))])
            probabilities[part] = self._reference.infer(batch[part], None if possible is None else possible[part])
        again, fp32_seconds = len(unsure), self._clock.monotonic() - started
        if is_trial and again < _at_once(len(batch)):
            again, started = _at_once(len(batch)), self._clock.monotonic()
            self._reference.infer(batch[:again])  # for the time alone: an answer depends on nothing but its image
            fp32_seconds = self._clock.monotonic() - started
        with self._lock:
            self._pace.passed(len(batch), len(unsure), low_seconds, again, fp32_seconds)
            self._log_choice()
        return probabilities

    def _log_choice(self) -> None:
        if not self._pace.has_chosen:
            return
        chosen = f"{self._low} first" if self._pace.is_low_first else "fp32 alone"
        if chosen != self._logged:
            self._logged = chosen
            _log.info(
                "exact answers",
                extra={
                    "way": chosen,
                    "reason": f"{self._low} first is {self._pace.gain:.2f} times as fast as fp32"
                    f" with {self._pace.share:.0%} of the images asked again",
                },
            )


def _at_once(images: int) -> int:
    """Return how many of so many images fp32 is asked about together, 4, 2 or 1.

    A network is prepared, and keeps memory, for each size of a batch.
    """
    return min(AT_ONCE, 1 << (images.bit_length() - 1))


def of_possible(probabilities: Batch, possible: Possible | None) -> Batch:
    """Return probabilities with 0 for the labels that are not `possible`; None is all labels.

    Raises:
        EngineError: the probabilities are not those of as many images and labels.
    """
    if possible is None:
        return probabilities
    if probabilities.shape != possible.shape:
        raise EngineError(f"the network answered {probabilities.shape}, not {possible.shape}")
    return probabilities * possible


def top_two_gap(probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the difference of the two largest logits of each row of probabilities [N, classes], as float32 [N].

    Taken from the probabilities: the logarithm of their ratio is what lay between the logits before the softmax.
    Unlike the difference of probabilities it means the same with 2 classes and with 1,000.
    """
    best = np.partition(probabilities, -2, axis=1)[:, -2:].clip(min=_TINY)
    gap: NDArray[np.float32] = np.log(best[:, 1]) - np.log(best[:, 0])
    return gap


def has_int8_dot_products(cpuinfo: Path = CPUINFO) -> bool:
    """Whether int8 is fast and right here: without such instructions its sums also overflow at 16 bits."""
    try:
        words = cpuinfo.read_text().split()
    except OSError:
        return False
    return not _DOT_PRODUCTS.isdisjoint(words)
