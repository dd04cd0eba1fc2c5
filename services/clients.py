"""Clients of AWS services: endpoint, region, credentials, retries, timeouts and pool size.

Clients share a session, since loading botocore's service models costs more than a call.
"""

import gzip
import json
import os
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import botocore.session
from botocore.config import Config as BotoConfig
from botocore.exceptions import NoCredentialsError
from botocore.loaders import JSONFileLoader, Loader

from services.clock import confirm_by_reply
from services.endpoint import APP_ID, Endpoint
from services.json_calls import JsonCalls

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient
    from mypy_boto3_ec2 import EC2Client
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_sqs import SQSClient
    from obstore.store import S3Credential, S3Store

CREDENTIALS_KEPT = timedelta(minutes=10)
"""Lifetime of credentials in an object store, which gets new ones five minutes before their end.

botocore, which provides them, renews a role's credentials when they have ten minutes left.
"""


class PlainJsonLoader(JSONFileLoader):
    """Files of botocore's data as plain dictionaries, which keep their order, too: read in half the time."""

    def load_file(self, file_path: str) -> Any:
        """Return the contents of the file with this path and one of the two suffixes, or None."""
        for path, opened in ((f"{file_path}.json", open), (f"{file_path}.json.gz", gzip.open)):
            if Path(path).is_file():
                with opened(path, "rb") as file:
                    return json.loads(file.read())
        return None


class FastModelLoader(Loader):
    """botocore's service models, found by the names of their folders.

    botocore lists all 440 folders, twice for each client, to find out whether a service exists: half the time that
    creating a client takes.
    """

    FILE_LOADER_CLASS = PlainJsonLoader

    def list_available_services(self, type_name: str) -> list[str]:  # noqa: ARG002 (botocore's signature)
        """Return the names that may be services; loading the model of any other fails."""
        folders = [Path(path) for path in self.search_paths]
        return sorted({service.name for folder in folders if folder.is_dir() for service in folder.iterdir()})


_LOADER = FastModelLoader()
"""Shared by all sessions of a process: it caches models, and reading one takes longer than a call."""


def new_session() -> botocore.session.Session:
    """Return a session that finds its service models quickly, and confirms the clock by each reply."""
    session = botocore.session.get_session()
    session.register_component("data_loader", _LOADER)
    session.register("response-received", confirm_by_reply)
    return session


@dataclass
class Clients:
    """Creates each client at its first use; threads may share clients."""

    endpoint: Endpoint
    session: botocore.session.Session = field(default_factory=new_session, repr=False)

    @cached_property
    def s3(self) -> "S3Client":
        """The S3 client for operations on buckets; `services.s3.Bucket` handles objects."""
        client: S3Client = self._client("s3")
        return client

    @cached_property
    def s3_signing(self) -> "S3Client":
        """The S3 client that signs requests for other clients: by Signature Version 4, for the region's endpoint.

        botocore's defaults would sign by Version 2, which newer regions reject, and for the global endpoint, which
        redirects to the region for a day after a bucket was created.
        """
        # On loopback, a bucket's name cannot be a host name.
        style: Any = {"addressing_style": "path" if self.endpoint.url else "virtual"}
        own = self._config.merge(BotoConfig(signature_version="s3v4", s3=style))
        client: S3Client = self._client("s3", own)
        return client

    @cached_property
    def sqs(self) -> "SQSClient":
        """The SQS client."""
        client: SQSClient = self._client_of_json("sqs")
        return client

    @cached_property
    def ec2(self) -> "EC2Client":
        """The EC2 client."""
        client: EC2Client = self._client("ec2")
        return client

    @cached_property
    def dynamodb(self) -> "DynamoDBClient":
        """The DynamoDB client."""
        client: DynamoDBClient = self._client_of_json("dynamodb")
        return client

    @cached_property
    def sts(self) -> Any:
        """The STS client, of the region's own endpoint."""
        return self._client("sts")

    @cached_property
    def sns(self) -> Any:
        """The SNS client."""
        return self._client("sns")

    def object_store(self, bucket: str) -> "S3Store":
        """Return a new connection pool to the objects of `bucket`."""
        from obstore.store import S3Store

        endpoint = self.endpoint
        # On loopback a bucket's name cannot be a host name; on AWS the certificate does not cover names with dots.
        place: Any = (
            {"endpoint": endpoint.url} if endpoint.url else {"virtual_hosted_style_request": "." not in bucket}
        )
        return S3Store(
            bucket,
            region=endpoint.region,
            credential_provider=self._credentials,
            # TLS protects contents, and the local cloud is on loopback; each digest of a large photo took 1.5 ms.
            unsigned_payload=True,
            client_options={
                "allow_http": endpoint.url is not None,
                "connect_timeout": timedelta(seconds=endpoint.connect_timeout),
                "timeout": timedelta(seconds=endpoint.read_timeout),
                "user_agent": f"fleetsight app/{os.environ.get(APP_ID, 'fleetsight')}",
            },
            retry_config={
                "max_retries": endpoint.max_attempts - 1,
                # 8 attempts take about a minute.
                "backoff": {
                    "init_backoff": timedelta(seconds=0.25),
                    "max_backoff": timedelta(seconds=20),
                    "base": 4,
                },
            },
            **place,
        )

    def _client(self, service: str, config: BotoConfig | None = None) -> Any:
        return self.session.create_client(service, endpoint_url=self.endpoint.url, config=config or self._config)

    def _client_of_json(self, service: str) -> Any:
        """Return a client. Its frequent calls bypass botocore, unless a call must never be sent twice."""
        client = self._client(service)
        if self.endpoint.max_attempts > 1:
            JsonCalls.install(client, self.session.get_config_variable("ca_bundle"))
        return client

    @cached_property
    def _config(self) -> BotoConfig:
        return BotoConfig(
            region_name=self.endpoint.region,
            retries={"mode": "standard", "total_max_attempts": self.endpoint.max_attempts},
            connect_timeout=self.endpoint.connect_timeout,
            read_timeout=self.endpoint.read_timeout,
            max_pool_connections=self.endpoint.pool_size,
            # mypy and the service check the parameters: a check here would cost a twentieth of each call.
            parameter_validation=False,
            # The default adds a checksum pass to every transfer; TLS and Content-MD5 where required remain.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            s3={"addressing_style": "path" if self.endpoint.url else "auto"},
        )

    def _credentials(self) -> "S3Credential":
        """Return botocore's current credentials: of the environment, a profile or the instance's role."""
        credentials = self.session.get_credentials()
        current = credentials.get_frozen_credentials() if credentials else None
        if current is None or current.access_key is None or current.secret_key is None:
            raise NoCredentialsError
        return {
            "access_key_id": current.access_key,
            "secret_access_key": current.secret_key,
            "token": current.token,
            "expires_at": datetime.now(UTC) + CREDENTIALS_KEPT,
        }
