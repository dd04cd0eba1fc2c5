"""The objects of one image, read when a person looks at it: what was sent, and all that was found."""

import threading

from services.clients import Clients
from services.config import Config
from services.errors import MessageError, NotFoundError
from services.ids import ImageRef, output_key
from services.jobs import ImageRecord
from services.messages import Prediction
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
        """
        return self._both()[0].get(record.key)

    def prediction(self, ref: ImageRef) -> Prediction | None:
        """Return the whole result with one probability per class, or None when there is none that can be read."""
        try:
            return Prediction.from_json(self._both()[1].get(output_key(ref)))
        except (NotFoundError, MessageError):
            return None

    def _both(self) -> tuple[Bucket, Bucket]:
        with self._lock:
            if self._buckets is None:
                clients, names = Clients(self._config.aws.endpoint()), self._config.names
                sent, found = names.input_bucket, names.output_bucket
                self._buckets = Bucket.named(clients, sent), Bucket.named(clients, found)
            return self._buckets
