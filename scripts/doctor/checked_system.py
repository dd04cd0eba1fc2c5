"""The system that is checked: its configuration, and the cloud that it uses.

The cloud is the one at `aws.endpoint_url`; else the local cloud of `./scripts/run.sh`, or with `--aws` AWS. The local
cloud's address and key are in the folder of the running system.
"""

import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from scripts.home import home_of

if TYPE_CHECKING:
    from core.config import Config
    from services.clients import Clients

ROOT: Final = Path(__file__).absolute().parents[2]

CONNECT_SECONDS: Final = 4.0
REPLY_SECONDS: Final = 5.0
"""The longest waits for a connection and for a reply; a check makes a few calls, one after another."""

DEFAULT_PORT: Final = 8000
"""The port of the page if the configuration cannot be read."""


@dataclass(frozen=True)
class CheckedSystem:
    """The system of a checkout.

    Attributes:
        root: the folder of the checkout.
        environment: overrides of the configuration, and the environment of AWS's clients.
        is_aws: whether the system without an `aws.endpoint_url` is on AWS.
        prefix: of the stack on AWS that has the configuration; None for config.yaml.
        port: of the page, instead of the configured one.
    """

    root: Path
    environment: Mapping[str, str]
    is_aws: bool = False
    prefix: str | None = None
    port: int | None = None
    _made: "list[tuple[Clients, Any]]" = field(default_factory=list, init=False, repr=False, compare=False)
    _lock: Any = field(default_factory=threading.RLock, init=False, repr=False, compare=False)

    @property
    def config(self) -> "Config":
        """The configuration, read once for all checks.

        Raises:
            FleetsightError: it is not valid, or there is no such stack.
            botocore.exceptions.BotoCoreError, ClientError: the stack's cannot be read.
        """
        with self._lock:
            return self._config

    @cached_property
    def _config(self) -> "Config":
        from core.config import config_path, load_config

        port = {} if self.port is None else {"FLEETSIGHT__WEB__PORT": str(self.port)}
        own = load_config(self.root / config_path(self.environment), {**self.environment, **port})
        if self.prefix is None:
            return own
        from scripts.aws.context import AccountError, AwsAccount
        from scripts.aws.deploy.stack import find_stack
        from scripts.aws.site import deployed_config

        account = AwsAccount(own.aws.region)
        stack = find_stack(account, self.prefix)
        if stack is None:
            raise AccountError(
                f"there is no stack {self.prefix} in {own.aws.region}: set FLEETSIGHT__AWS__REGION, or leave out "
                "--prefix"
            )
        return deployed_config(account, stack)

    @property
    def is_on_aws(self) -> bool:
        """Whether the configured cloud is AWS."""
        return (self.is_aws or self.prefix is not None) and self.config.aws.endpoint_url is None

    @property
    def page_port(self) -> int:
        """The port of the page; the default one without a valid configuration."""
        try:
            return self.config.web.port
        except Exception:  # noqa: BLE001 (the check of the configuration reports it)
            return self.port or DEFAULT_PORT

    @property
    def home(self) -> Path:
        """The folder of logs, samples and models; it may not exist yet."""
        return home_of(self.root, self.environment)

    @property
    def run_folder(self) -> Path:
        """The folder of the system that `./scripts/run.sh` runs, or ran last, on this port."""
        return self.home / f"run-{self.page_port}"

    @cached_property
    def started_endpoint(self) -> str | None:
        """The address of the local cloud that `./scripts/run.sh` has started last, or None."""
        try:
            return (self.run_folder / "endpoint").read_text(encoding="utf-8").strip() or None
        except OSError:
            return None

    @property
    def endpoint(self) -> str | None:
        """The address of the cloud; None for AWS, and where no local cloud was started."""
        configured = self.config.aws.endpoint_url
        return configured or (None if self.is_on_aws else self.started_endpoint)

    @property
    def is_local(self) -> bool:
        """Whether the cloud is the local cloud that `./scripts/run.sh` has started last."""
        return self.endpoint is not None and self.endpoint == self.started_endpoint

    @cached_property
    def has_cloud(self) -> bool:
        """Whether there is a cloud that can be called: nothing may listen at the address of a local one."""
        if self.is_on_aws or self.config.aws.endpoint_url:
            return True
        address = urlsplit(self.started_endpoint or "")
        if address.hostname is None or address.port is None:
            return False
        try:
            socket.create_connection((address.hostname, address.port), CONNECT_SECONDS).close()
        except ConnectionRefusedError:
            return False
        return True

    @property
    def clients(self) -> "Clients":
        """Clients of the cloud, which make each call once."""
        return self._all_clients()[0]

    @property
    def unsigned_sts(self) -> Any:
        """A client of STS that signs nothing: every cloud answers it, without credentials, by a refusal."""
        return self._all_clients()[1]

    def _all_clients(self) -> "tuple[Clients, Any]":
        with self._lock:  # a session of botocore must not create two clients at once
            if not self._made:
                self._made.append(self._make_clients())
            return self._made[0]

    def _make_clients(self) -> "tuple[Clients, Any]":
        from botocore import UNSIGNED
        from botocore.config import Config as BotoConfig

        from localcloud.access_keys import AccessKey
        from services.clients import Clients, new_session
        from services.endpoint import Endpoint

        session = new_session()
        if self.is_local:
            key = AccessKey.load(self.run_folder)
            session.set_credentials(key.id, key.secret)
        region = self.config.aws.region
        clients = Clients(Endpoint(region, self.endpoint, 1, CONNECT_SECONDS, REPLY_SECONDS), session)
        unsigned = BotoConfig(
            signature_version=UNSIGNED,
            retries={"mode": "standard", "total_max_attempts": 1},
            connect_timeout=CONNECT_SECONDS,
            read_timeout=REPLY_SECONDS,
        )
        sts = session.create_client("sts", region_name=region, endpoint_url=self.endpoint, config=unsigned)
        for service in ("s3", "sqs", "dynamodb", "sts"):
            getattr(clients, service)
        return clients, sts

    @property
    def venv_python(self) -> Path:
        """The Python that runs the system, which `./scripts/setup.sh` makes."""
        return self.root / ".venv" / "bin" / "python"
