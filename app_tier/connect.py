"""The queues and buckets of a worker, and its bundle where that lies in S3.

Apart from the rest of the start, which does not wait for botocore's import.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from botocore.exceptions import BotoCoreError, ClientError

from app_tier.bundle.load import Bundle, load_bundle
from app_tier.bundle.s3 import fetch_bundle, in_s3
from app_tier.errors import NotStartedError
from app_tier.faults import meaning_of
from app_tier.pipeline import Services
from core.config import Config
from services.clients import Clients
from services.s3 import Bucket
from services.sqs import Queue


def open_services(config: Config) -> Services:
    """Return the queues and buckets that `config` names.

    Raises:
        NotStartedError: SQS cannot be reached or does not know the queues.
    """
    clients, names = Clients(config.aws.endpoint()), config.names
    with _refusals_explained():
        return Services(
            requests=Queue.named(clients.sqs, config.queue_name(names.request_queue)),
            responses=Queue.named(clients.sqs, config.queue_name(names.response_queue)),
            inputs=Bucket.named(clients, names.input_bucket),
            outputs=Bucket.named(clients, names.output_bucket),
        )


def bundle_from_s3(config: Config) -> Bundle:
    """Return the bundle that `config` names, fetched and checked.

    Raises:
        BundleError: the bundle is missing or damaged.
        NotStartedError: S3 cannot be reached or refuses.
    """
    if (place := in_s3(config.worker.bundle)) is None:
        return load_bundle(config.worker.bundle, config.worker.bundle_sha256)
    with _refusals_explained():
        return fetch_bundle(Clients(config.aws.endpoint()).s3, place, sha256=config.worker.bundle_sha256)


@contextmanager
def _refusals_explained() -> Iterator[None]:
    try:
        yield
    except (BotoCoreError, ClientError) as error:
        raise NotStartedError(meaning_of(error).reason) from error
