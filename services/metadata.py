"""A client of the instance metadata service, version 2.

https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-data-retrieval.html
"""

import json
import os
import urllib.error
import urllib.request
from dataclasses import dataclass, field

from services.clock import CLOCK, Clock
from services.errors import MetadataError

DRAIN_TAG = "fleetsight-drain"
"""The worker on an instance with this tag, with any value, finishes its images and ends."""

PROTECTED_TAG = "fleetsight-stay"
"""An instance with this tag, with any value, is protected from scale-in: its worker does not end when it is idle."""

_DEFAULT = "http://169.254.169.254/"
_TOKEN_SECONDS = 21_600


def _endpoint() -> str:
    # boto3 reads the same variable, so credentials and identity come from the same service.
    return os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT", _DEFAULT).rstrip("/")


@dataclass
class Metadata:
    """A client of the metadata service; every call raises `MetadataError` if the service does not respond."""

    endpoint: str = field(default_factory=_endpoint)
    timeout_seconds: float = 2.0
    clock: Clock = CLOCK
    _token: tuple[str, float] | None = field(default=None, repr=False)

    def instance_id(self) -> str:
        """Return this instance's id, such as i-0123456789abcdef0."""
        return self._required("meta-data/instance-id")

    def region(self) -> str:
        """Return the region of this instance."""
        return self._required("meta-data/placement/region")

    def spot_action(self) -> str | None:
        """Return `terminate`, `stop` or `hibernate` about 120 s before EC2 interrupts a Spot Instance, else None."""
        notice = self._get("meta-data/spot/instance-action")
        if notice is None:
            return None
        try:
            return str(json.loads(notice)["action"])
        except (ValueError, KeyError, TypeError) as error:
            raise MetadataError(f"the Spot notice {notice!r} has no action") from error

    def drain_requested(self) -> bool:
        """Return whether the instance has `DRAIN_TAG`; False where it may not read its tags."""
        return self._get(f"meta-data/tags/instance/{DRAIN_TAG}") is not None

    def is_protected(self) -> bool:
        """Return whether the instance is protected from scale-in; False where it may not read its tags."""
        return self._get(f"meta-data/tags/instance/{PROTECTED_TAG}") is not None

    def _required(self, path: str) -> str:
        value = self._get(path)
        if value is None:
            raise MetadataError(f"{self.endpoint} has no {path}")
        return value

    def _get(self, path: str) -> str | None:
        request = urllib.request.Request(  # noqa: S310 (the address is the operator's, never a user's)
            f"{self.endpoint}/latest/{path}", headers={"X-aws-ec2-metadata-token": self._valid_token()}
        )
        return self._open(request)

    def _valid_token(self) -> str:
        if self._token is None or self.clock.monotonic() >= self._token[1]:
            request = urllib.request.Request(  # noqa: S310 (as above)
                f"{self.endpoint}/latest/api/token",
                method="PUT",
                headers={"X-aws-ec2-metadata-token-ttl-seconds": str(_TOKEN_SECONDS)},
            )
            token = self._open(request)
            if token is None:
                raise MetadataError(f"{self.endpoint} gives no session token")
            self._token = (token, self.clock.monotonic() + _TOKEN_SECONDS / 2)
        return self._token[0]

    def _open(self, request: urllib.request.Request) -> str | None:
        try:
            with urllib.request.urlopen(request, timeout=self.timeout_seconds) as reply:  # nosec B310 # noqa: S310 (as above)
                return str(reply.read().decode())
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            raise MetadataError(f"{request.full_url} answered {error.code}") from error
        except OSError as error:
            raise MetadataError(
                f"no instance metadata at {self.endpoint} ({error}): this is no EC2 instance, "
                "or AWS_EC2_METADATA_SERVICE_ENDPOINT is wrong"
            ) from error
