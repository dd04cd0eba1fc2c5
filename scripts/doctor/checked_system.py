"""The system that is checked: its address, its configuration, and the folder of `./scripts/run.sh`."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from scripts.home import address_of, home_of

if TYPE_CHECKING:
    from core.config import Config

ROOT: Final = Path(__file__).absolute().parents[2]

DEFAULT_ADDRESS: Final = ("127.0.0.1", 8000)
"""The host and the port of the page if the configuration cannot be read."""


@dataclass(frozen=True)
class CheckedSystem:
    """The system of a checkout.

    Attributes:
        root: the folder of the checkout.
        environment: overrides of the configuration.
        given_url: of the page, instead of the configured address.
    """

    root: Path
    environment: Mapping[str, str]
    given_url: str | None = None
    _lock: Any = field(default_factory=threading.RLock, init=False, repr=False, compare=False)

    @property
    def config(self) -> "Config":
        """The configuration, read once for all checks.

        Raises:
            FleetsightError: it is not valid.
        """
        with self._lock:
            return self._config

    @cached_property
    def _config(self) -> "Config":
        from core.config import config_path, load_config

        return load_config(config_path(self.environment, self.root), self.environment)

    @property
    def address(self) -> tuple[str, int]:
        """The host and the port of the page; the default ones without a valid configuration."""
        if self.given_url is not None:
            return address_of(self.given_url)
        try:
            return self.config.web.host, self.config.web.port
        except Exception:  # noqa: BLE001 (the check of the configuration reports it)
            return DEFAULT_ADDRESS

    @property
    def url(self) -> str:
        """The address of the page, without a final slash."""
        if self.given_url is not None:
            return self.given_url.rstrip("/")
        try:
            from scripts.client import web_url

            return web_url(self.config.web.host, self.config.web.port)
        except Exception:  # noqa: BLE001 (the checks of packages and of the configuration report it)
            return "http://{}:{}".format(*DEFAULT_ADDRESS)

    @property
    def home(self) -> Path:
        """The folder of logs, samples and models; it may not exist yet."""
        return home_of(self.root, self.environment)

    @property
    def run_folder(self) -> Path:
        """The folder of the system that `./scripts/run.sh` runs, or ran last, on this port."""
        return self.home / f"run-{self.address[1]}"

    @property
    def endpoint(self) -> str | None:
        """The address of the configured cloud, or of the local cloud that was started last; None without any."""
        try:
            configured = self.config.aws.endpoint_url
        except Exception:  # noqa: BLE001 (the check of the configuration reports it)
            configured = None
        try:
            return configured or (self.run_folder / "endpoint").read_text(encoding="utf-8").strip() or None
        except OSError:
            return None

    @property
    def venv_python(self) -> Path:
        """The Python that runs the system, which `./scripts/setup.sh` makes."""
        return self.root / ".venv" / "bin" / "python"
