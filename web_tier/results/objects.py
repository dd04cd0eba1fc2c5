"""Objects of the buckets, read when a person asks: what was sent, all that was found, all results as one file."""

import threading
from collections.abc import Iterator
from itertools import chain

from core.config import Config
from core.ids import parse_key
from core.jobs.models import ImageRecord
from core.messages import Prediction, Response
from core.predictions import stored_prediction
from services.clients import Clients
from services.s3 import Bucket


class ImageObjects:
    """Reads from the input and output buckets; its clients are made on first use, so after gunicorn's fork.

    Args:
        config: names the buckets.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._buckets: tuple[Bucket, Bucket] | None = None
        self._lock = threading.Lock()

    def sent(self, record: ImageRecord) -> bytes:
        """Return the file as it was sent.

        Raises:
            NotFoundError: when it is not kept any more.
            ObjectTooLargeError: when it is larger than an image may be.
        """
        return self._both()[0].get(record.key, self._config.web.max_image_bytes)

    def prediction(self, response: Response) -> Prediction | None:
        """Return the whole result with one probability per class, or None when there is none that can be read.

        That of a repeated image is the one that it repeats, as long as that one's job is there. A prediction with
        another label or model belongs to another delivery, and its scores do not belong to this result.
        """
        ref = parse_key(response.source) if response.source else response.ref
        found = stored_prediction(ref, self._both()[1])
        return found if found is not None and (found.label, found.model) == (response.label, response.model) else None

    def merged(self, key: str) -> Iterator[bytes]:
        """Return the file with all results of a job in parts, the first of which is there.

        Raises:
            NotFoundError: when there is no such file.
        """
        parts = self._both()[1].stream(key)
        return chain([next(parts, b"")], parts)

    def _both(self) -> tuple[Bucket, Bucket]:
        with self._lock:
            if self._buckets is None:
                clients, names = Clients(self._config.aws.endpoint()), self._config.names
                sent, found = names.input_bucket, names.output_bucket
                self._buckets = Bucket.named(clients, sent), Bucket.named(clients, found)
            return self._buckets
