"""The engines that run a bundle's network: OpenVINO on a CPU, or torch (a GPU where there is one; the reference)."""

from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from app_tier.bundle.errors import EngineError
from app_tier.bundle.load import Bundle
from app_tier.bundle.manifest import IR_NAME, TORCH_NAME
from app_tier.bundle.torch_import import export_warnings_off, import_torch
from app_tier.openvino_import import import_openvino

Batch = NDArray[np.float32]

ENGINES: Final = ("openvino", "torch")


class Engine(Protocol):
    """A network that is ready to answer; one thread may use it at a time."""

    def infer(self, batch: Batch) -> Batch:
        """Map float32 [N, 3, H, W], made by `app_tier.preprocess.load_pixels`, to probabilities [N, classes]."""
        ...


def open_engine(name: str, bundle: Bundle, threads: int = 1) -> Engine:
    """Open the engine `name` ("openvino" or "torch") on a bundle whose digests have been checked.

    Raises:
        EngineError: there is no such engine, or it cannot run this bundle here.
    """
    if name == "openvino":
        return OpenVinoEngine(bundle, threads)
    if name == "torch":
        return TorchEngine(bundle, threads)
    raise EngineError(f"no engine {name!r}: set engine to one of {', '.join(ENGINES)}")


class OpenVinoEngine:
    """OpenVINO on `threads` CPU threads, in float32 whatever the machine could do faster and less exactly.

    One network serves every batch size: fixed sizes were at most 7% faster, and each would be compiled by itself.

    Raises:
        EngineError: OpenVINO cannot read or compile the network.
    """

    def __init__(self, bundle: Bundle, threads: int = 1) -> None:
        settings: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": "f32",
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

    def infer(self, batch: Batch) -> Batch:
        """Map float32 [N, 3, H, W] to probabilities [N, classes]."""
        # The result is the request's own memory, which the next call overwrites: hand out a copy.
        outputs = self._request.infer(
            [np.ascontiguousarray(batch, np.float32)], share_inputs=True, share_outputs=True
        )
        return np.array(outputs[0], np.float32)


class TorchEngine:
    """The exported network on torch: on the GPU where CUDA has one, else on `threads` CPU threads of this process.

    Raises:
        EngineError: torch is not installed, or the bundle holds no network for it.
    """

    def __init__(self, bundle: Bundle, threads: int = 1) -> None:
        torch = import_torch()
        torch.set_num_threads(threads)
        self._torch = torch
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        with export_warnings_off():
            self._network = torch.export.load(bundle.path(TORCH_NAME)).module().to(self._device)

    def infer(self, batch: Batch) -> Batch:
        """Map float32 [N, 3, H, W] to probabilities [N, classes]."""
        with self._torch.inference_mode():
            pixels = self._torch.from_numpy(np.ascontiguousarray(batch, np.float32)).to(self._device)
            probabilities: Batch = self._network(pixels).cpu().numpy()
        return probabilities
