"""The engines that run a bundle's network: OpenVINO on a CPU, or torch (a GPU where there is one; the reference)."""

from functools import partial
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from app_tier.bundle.errors import EngineError
from app_tier.bundle.load import Bundle
from app_tier.bundle.manifest import IR_NAME, TORCH_NAME, NumberType, Precision
from app_tier.bundle.torch_import import export_warnings_off, import_torch
from app_tier.exact import ExactEngine
from app_tier.openvino_import import import_openvino

Batch = NDArray[np.float32]

ENGINES: Final = ("openvino", "torch")

_OPENVINO_TYPES: Final[dict[NumberType, str]] = {"fp32": "f32", "bf16": "bf16"}


class Engine(Protocol):
    """A network that is ready to answer; one thread may use it at a time."""

    def infer(self, batch: Batch) -> Batch:
        """Map float32 [N, 3, H, W], made by `app_tier.preprocess.load_pixels`, to probabilities [N, classes]."""
        ...


class _OpensPrecision(Protocol):
    def __call__(self, *, precision: NumberType) -> Engine: ...


def open_engine(name: str, bundle: Bundle, threads: int = 1, precision: Precision | None = None) -> Engine:
    """Open the engine `name` ("openvino" or "torch") on a bundle whose digests have been checked.

    Without a `precision` the bundle's own is used where the device is fast at it, and fp32 elsewhere: on a CPU
    without bf16, and for torch on any CPU, where it is the reference.

    Raises:
        EngineError: there is no such engine, or it cannot run this bundle here.
    """
    if name not in ENGINES:
        raise EngineError(f"no engine {name!r}: set engine to one of {', '.join(ENGINES)}")
    kind: type[OpenVinoEngine | TorchEngine] = OpenVinoEngine if name == "openvino" else TorchEngine
    wanted = precision or (bundle.manifest.precision if kind.has_fast_bf16() else "fp32")
    return _in_precision(partial(kind, bundle, threads), wanted, bundle)


def _in_precision(opens: _OpensPrecision, precision: Precision, bundle: Bundle) -> Engine:
    if precision != "exact":
        return opens(precision=precision)
    if bundle.manifest.margin is None:
        raise EngineError(
            f"bundle {bundle.name} has no measured margin for exact answers: build it with --precision exact"
        )
    return ExactEngine(opens(precision="bf16"), opens(precision="fp32"), bundle.manifest.margin)


class OpenVinoEngine:
    """OpenVINO on `threads` CPU threads, in the precision asked for whatever the machine could do faster.

    One network serves every batch size: fixed sizes were at most 7% faster, and each would be compiled by itself.

    Raises:
        EngineError: OpenVINO cannot read or compile the network.
    """

    def __init__(self, bundle: Bundle, threads: int = 1, precision: NumberType = "fp32") -> None:
        settings: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": _OPENVINO_TYPES[precision],
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            # Two one-thread networks in one process share a core, and run at half speed, while they are pinned.
            "ENABLE_CPU_PINNING": False,
        }
        try:
            self._network = import_openvino().Core().compile_model(str(bundle.path(IR_NAME)), "CPU", settings)
        except RuntimeError as error:
            raise EngineError(f"OpenVINO cannot run bundle {bundle.name}: {str(error).strip()}") from error
        self._request = self._network.create_infer_request()

    @staticmethod
    def has_fast_bf16() -> bool:
        """Whether this CPU has instructions for bf16, by OpenVINO's own list of what it is good at."""
        return "BF16" in import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")

    def infer(self, batch: Batch) -> Batch:
        """Map float32 [N, 3, H, W] to probabilities [N, classes]."""
        # The result is the request's own memory, which the next call overwrites: hand out a copy.
        outputs = self._request.infer(
            [np.ascontiguousarray(batch, np.float32)], share_inputs=True, share_outputs=True
        )
        return np.array(outputs[0], np.float32)


class TorchEngine:
    """The exported network on torch: on the GPU where CUDA has one, else on `threads` CPU threads of this process.

    Weights and pixels lie channels-last, which is how tensor cores read them; pixels travel from pinned memory, so
    that the copy is a direct one.

    Raises:
        EngineError: torch is not installed, or the bundle holds no network for it.
    """

    def __init__(self, bundle: Bundle, threads: int = 1, precision: NumberType = "fp32") -> None:
        torch = import_torch()
        torch.set_num_threads(threads)
        self._torch = torch
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._form = {
            "dtype": torch.bfloat16 if precision == "bf16" else torch.float32,
            "memory_format": torch.channels_last,
        }
        with export_warnings_off():
            network = torch.export.load(bundle.path(TORCH_NAME)).module()
        self._network = network.to(self._device, **self._form)

    @staticmethod
    def has_fast_bf16() -> bool:
        """Whether there is a GPU that computes in bf16; a CPU counts as the fp32 reference, whatever it can do."""
        torch = import_torch()
        return bool(torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False))

    def infer(self, batch: Batch) -> Batch:
        """Map float32 [N, 3, H, W] to probabilities [N, classes]."""
        pixels = self._torch.from_numpy(np.ascontiguousarray(batch, np.float32))
        if self._device != "cpu":
            pixels = pixels.pin_memory()
        with self._torch.inference_mode():
            moved = pixels.to(self._device, non_blocking=True).to(**self._form)
            probabilities: Batch = self._network(moved).float().cpu().numpy()
        return probabilities
