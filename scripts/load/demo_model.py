"""The demo model in the process of a load test: a right system answers what the model itself says of an image."""

import threading
from pathlib import Path

import numpy as np

from app_tier.bundle import load_bundle
from app_tier.engines import Engine, open_engine
from scripts.model.sample_images import Labelled, decoded


class DemoModel:
    """Labels the few drawn signs that the demo model does not recognise as what was drawn; threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._bundle = load_bundle()
        self._engine: Engine | None = None

    def label(self, file: Path) -> str | None:
        """Return the label of an image, or None if it cannot be decoded."""
        with self._lock:
            self._engine = self._engine or open_engine("openvino", self._bundle)
            for pixels, _ in decoded([Labelled(file.read_bytes(), None)], self._bundle.manifest):
                return self._bundle.labels[int(self._engine.infer(pixels[np.newaxis]).argmax())]
        return None
