"""Details that are read only on request: an image's file, all its class scores, the results file of a job."""

import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

from core.config import Config
from core.ids import parse_key
from core.jobs.models import ImageRecord
from core.messages import LabelScore, Prediction, Response
from core.predictions import stored_prediction
from services.clients import Clients
from services.s3 import Bucket


class ImageObjects:
    """Reads from the input and output buckets; its clients are created on first use, so after gunicorn's fork.

    Args:
        config: names the buckets.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._buckets: tuple[Bucket, Bucket] | None = None
        self._lock = threading.Lock()

    def original(self, record: ImageRecord) -> bytes:
        """Return the file that the user sent.

        Raises:
            NotFoundError: if it is no longer stored.
            ObjectTooLargeError: if it is larger than an image may be.
        """
        return self._open()[0].get(record.key, self._config.web.max_image_bytes)

    def prediction(self, response: Response) -> Prediction | None:
        """Return the prediction with one probability per class, or None if it cannot be read.

        An image that was answered from the cache has the prediction of the earlier image, until the job of that image
        is deleted. A prediction with another label or model belongs to another delivery, so its scores do not belong
        to this result.
        """
        ref = parse_key(response.source) if response.source else response.ref
        found = stored_prediction(ref, self._open()[1])
        return found if found is not None and (found.label, found.model) == (response.label, response.model) else None

    def results_file(self, key: str) -> Iterator[bytes]:
        """Return the results file of a job in parts; the first part has been read.

        Raises:
            NotFoundError: if there is no such file.
        """
        parts = self._open()[1].stream(key)
        return chain([next(parts, b"")], parts)

    def _open(self) -> tuple[Bucket, Bucket]:
        """Return the input and the output bucket."""
        with self._lock:
            if self._buckets is None:
                clients, names = Clients(self._config.aws.endpoint()), self._config.names
                self._buckets = Bucket.named(clients, names.input_bucket), Bucket.named(clients, names.output_bucket)
            return self._buckets


@dataclass(frozen=True)
class ClassLabels:
    """The labels of a bundle in the order of the probabilities, and its messages for some of them."""

    labels: Sequence[str] = ()
    messages: Mapping[str, str] = field(default_factory=dict)

    def fit(self, prediction: Prediction) -> bool:
        """Return whether the bundle with these labels made `prediction`: its best scores must be at their labels."""
        scores = prediction.probabilities
        if len(self.labels) != len(scores):
            return False
        index_of = {label: index for index, label in enumerate(self.labels)}
        return all(
            pair.label in index_of and math.isclose(scores[index_of[pair.label]], pair.score, abs_tol=1e-5)
            for pair in prediction.top
        )

    def all_scores(self, prediction: Prediction) -> list[LabelScore]:
        """Return every class with its probability, best first; a class without a known label has a number."""
        names = self.labels if self.fit(prediction) else [f"class {n}" for n in range(len(prediction.probabilities))]
        pairs = [
            LabelScore(label=name, score=score) for name, score in zip(names, prediction.probabilities, strict=True)
        ]
        return sorted(pairs, key=lambda pair: -pair.score)
