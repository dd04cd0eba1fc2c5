"""The access keys that a local cloud accepts: its owner's, those of its instances, and those of IAM and STS.

The process that starts the cloud draws the owner's key at random and passes it to its children in their environment.
No other program of this machine and no web page can use the cloud.
"""

import functools
import hashlib
import hmac
import os
import re
import secrets
from dataclasses import dataclass, field
from pathlib import Path

KEY_FILE = "access-key"
HEADER_FILE = "control-header"
"""Files in the folder of a running system, for commands and users."""

_OWNER_PREFIX = "AKIAEMBEDDED"
"""Prefix that no key of AWS has, so that a real key in the environment is never used here."""

_INSTANCE_KEY = re.compile(r"ASIA[0-9A-F]{17}")
"""The digits of an instance's id; a key from STS is one character shorter."""


@dataclass(frozen=True, slots=True)
class AccessKey:
    """An access key: its id, and the secret that signs requests."""

    id: str
    secret: str = field(repr=False)

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables of AWS's clients."""
        return {"AWS_ACCESS_KEY_ID": self.id, "AWS_SECRET_ACCESS_KEY": self.secret}

    @property
    def control_authorization(self) -> str:
        """The Authorization header of the control endpoint, a bearer token that does not reveal the secret."""
        return f"Bearer {_derived(self.secret, 'control endpoint')}"

    def save(self, folder: Path) -> None:
        """Write the environment of AWS's clients and the header for curl to files that only this user can read."""
        environment = "".join(f"{name}={value}\n" for name, value in self.environment.items())
        for name, text in ((KEY_FILE, environment), (HEADER_FILE, f"Authorization: {self.control_authorization}\n")):
            write_private(folder / name, text)

    @classmethod
    def load(cls, folder: Path) -> "AccessKey":
        """Return the key that `save` wrote; raises OSError if the file does not exist."""
        lines = (folder / KEY_FILE).read_text(encoding="utf-8").splitlines()
        return cls(*(line.partition("=")[2] for line in lines))


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read; a kill or a power failure leaves the whole file, or none."""
    partial = path.with_name(f"{path.name}.partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


@functools.cache
def owner_key() -> AccessKey:
    """Return the key that may do everything: the key in the environment of this process, or else a new one."""
    if is_inherited():
        return AccessKey(os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"])
    return AccessKey(f"{_OWNER_PREFIX}{secrets.token_hex(4).upper()}", secrets.token_urlsafe(30))


def adopt_owner_key(key: AccessKey) -> None:
    """Let this process and its children use an owner's key; called before any other function."""
    os.environ.update(key.environment)
    owner_key.cache_clear()


def is_inherited() -> bool:
    """Return True if the environment of this process holds an owner's key."""
    return os.environ.get("AWS_ACCESS_KEY_ID", "").startswith(_OWNER_PREFIX)


def instance_key(instance_id: str) -> AccessKey:
    """Return the key of an instance without a role. It is derived from the owner's key, so it need not be stored."""
    key_id = f"ASIA{instance_id.removeprefix('i-').upper()}"
    return AccessKey(key_id, _derived(owner_key().secret, key_id))


def secret_of(key_id: str) -> str | None:
    """Return the secret of an access key, or None if this cloud did not issue the key."""
    if key_id == owner_key().id:
        return owner_key().secret
    if _INSTANCE_KEY.fullmatch(key_id):
        return _derived(owner_key().secret, key_id)
    from moto.iam.models import get_account_id_from, iam_backends
    from moto.utilities.utils import PARTITION_NAMES

    account = iam_backends[get_account_id_from(key_id)]
    issued = (account[partition].access_keys.get(key_id) for partition in PARTITION_NAMES)
    key = next(filter(None, issued), None)
    return None if key is None else str(key.secret_access_key)


@functools.lru_cache(1_000)
def signing_key(secret: str, day: str, region: str, service: str) -> bytes:
    """Return the key that signs the requests of a day (such as ``20261121``) to a service of a region.

    https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
    """
    key = f"AWS4{secret}".encode()
    for part in (day, region, service, "aws4_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return key


def _derived(secret: str, purpose: str) -> str:
    return hmac.new(secret.encode(), purpose.encode(), hashlib.sha256).hexdigest()
