"""The engines that run a bundle's network: OpenVINO on a CPU, or torch (a GPU where there is one; the reference)."""

import logging
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

from app_tier.bundle import INT8_IR_NAME, IR_NAME, TORCH_NAME, Bundle, EngineError, NumberType, Precision
from app_tier.engine_imports import export_warnings_off, import_openvino, import_torch
from core.config import EngineName

_log = logging.getLogger(__name__)

Batch = NDArray[np.float32]

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

_TINY: Final = np.finfo(np.float32).tiny


class Engine(Protocol):
    """A network that is ready to answer, to as many threads at once as it was opened with streams."""

    def infer(self, batch: Batch) -> Batch:
        """Map float32 [N, 3, H, W], made by `app_tier.preprocess.load_pixels`, to probabilities [N, classes]."""
        ...


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
    if name not in ENGINES:
        raise EngineError(f"no engine {name!r}: set engine to one of {', '.join(ENGINES)}")
    kind: type[OpenVinoEngine | TorchEngine] = OpenVinoEngine if name == "openvino" else TorchEngine
    low = bundle.manifest.low_precision
    if precision is None:
        precision = bundle.manifest.precision if low is not None and kind.is_fast_in(low) else "fp32"
    opens = partial(kind, bundle, threads, streams=streams)
    if precision != "exact":
        return opens(precision=precision)
    if bundle.manifest.margin is None:
        raise EngineError(
            f"bundle {bundle.name} has no measured margin for exact answers: build it with --precision exact"
        )
    return ExactEngine(opens(precision=low or "bf16"), opens(precision="fp32"), bundle.manifest.margin)


class OpenVinoEngine:
    """OpenVINO on `threads` CPU threads, in the precision asked for, also if the machine is faster in another.

    One network serves every batch size: fixed sizes were at most 7% faster, and each would be compiled by itself.
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

    def infer(self, batch: Batch) -> Batch:
        """Map float32 [N, 3, H, W] to probabilities [N, classes].

        Raises:
            EngineError: every stream has been busy for `MAX_WAIT_SECONDS`, or OpenVINO has failed, now or before: a
                network that once had no memory for a batch may answer later ones wrongly, without an error.
        """
        pixels = np.ascontiguousarray(batch, np.float32)
        with self._request() as request:
            if self._failure:
                raise EngineError(self._failure)
            try:
                # `infer` would be shorter, but where a node of the network gets no memory, that of OpenVINO 2026.4
                # raises nothing: it returns the answers of an earlier batch.
                request.start_async([pixels], share_inputs=True)
                request.wait()
            except (RuntimeError, MemoryError) as error:
                self._failure = f"OpenVINO failed on {len(pixels)} images: {str(error).strip()}"
                raise EngineError(self._failure) from error
            # The result is the request's own memory, which its next call overwrites: hand out a copy.
            return np.array(request.get_output_tensor().data, np.float32)

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

    def infer(self, batch: Batch) -> Batch:
        """Map float32 [N, 3, H, W] to probabilities [N, classes]."""
        pixels = self._torch.from_numpy(np.ascontiguousarray(batch, np.float32))
        if self._device != "cpu":
            pixels = pixels.pin_memory()
        with self._one_at_a_time, self._torch.inference_mode():
            moved = pixels.to(self._device, non_blocking=True).to(**self._form)
            probabilities: Batch = self._network(moved).float().cpu().numpy()
        return probabilities


@dataclass(frozen=True)
class ExactEngine:
    """Give fp32's answers at nearly the speed of low precision.

    It asks `fast` about all images, and `reference` again about each image with a top-two gap below `margin`. Low
    precision moves a network's logits a little, so it changes an answer only if the two best are close. How close is
    measured when a bundle is built (`scripts.model.precision`) and kept in the bundle as its margin.
    """

    fast: Engine
    reference: Engine
    margin: float

    def infer(self, batch: Batch) -> Batch:
        """Map float32 [N, 3, H, W] to probabilities [N, classes]."""
        probabilities = self.fast.infer(batch)
        unsure = np.flatnonzero(top_two_gap(probabilities) < self.margin)
        while len(unsure):
            # In batches of 4, 2 and 1: a network is prepared, and keeps memory, for each size of a batch.
            size = min(AT_ONCE, 1 << (len(unsure).bit_length() - 1))
            part, unsure = unsure[:size], unsure[size:]
            probabilities[part] = self.reference.infer(batch[part])
        return probabilities


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
