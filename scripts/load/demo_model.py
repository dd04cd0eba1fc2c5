"""The demo model in the process of a load test: a right system answers what the model itself says of an image."""

import threading
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from app_tier.bundle import Bundle
    from app_tier.engines import Engine


class DemoModel:
    """Labels the few drawn signs that the demo model does not recognise as what was drawn; threads may share it.

    It imports numpy and the engine when it labels the first image: few load tests have one to label.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()

    @cached_property
    def _opened(self) -> "tuple[Bundle, Engine]":
        from app_tier.bundle import load_bundle
        from app_tier.engines import open_engine

        bundle = load_bundle()
        return bundle, open_engine("openvino", bundle)

    def label(self, file: Path) -> str | None:
        """Return the label of an image, or None if it cannot be decoded."""
        import numpy as np

        from scripts.model.sample_images import Labelled, decoded

        with self._lock:
            bundle, engine = self._opened
            for pixels, _ in decoded([Labelled(file.read_bytes(), None)], bundle.manifest):
                return bundle.labels[int(engine.infer(pixels[np.newaxis]).argmax())]
        return None
