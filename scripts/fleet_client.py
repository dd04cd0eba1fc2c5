"""A client of the API for operators: the fleet and the dead letters."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import requests

from core.config import Web
from scripts.client import ApiClient, ApiError

EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # nosec B104 # noqa: S104 (what is listened at, not where)
"""Addresses that listen at every interface, and what to call instead."""


class NotThereError(ApiError):
    """Raised when no Fleetsight answers at the address; the message says what to start."""


def url_of(web: Web) -> str:
    """Return the address of the web tier that is configured so, seen from its own machine."""
    host = EVERYWHERE.get(web.host, web.host)
    return f"http://[{host}]:{web.port}" if ":" in host else f"http://{host}:{web.port}"


@dataclass
class FleetClient(ApiClient):
    """Calls the API for the fleet; each method returns the body of the answer, as the OpenAPI document has it.

    Raises:
        NotThereError: when nothing answers, or something else does.
        ApiError: when the API refuses; the message says why.
    """

    timeout_seconds: tuple[float, float] = (5.0, 20.0)

    def instances(self) -> dict[str, Any]:
        """Return the instances, newest first."""
        return self._call("GET", "/fleet/instances")

    def decisions(self) -> dict[str, Any]:
        """Return the last decisions, newest first."""
        return self._call("GET", "/fleet/decisions")

    def pause(self, reason: str) -> dict[str, Any]:
        """Pause the fleet."""
        return self._call("POST", "/fleet/pause", json={"reason": reason})

    def resume(self) -> dict[str, Any]:
        """End the pause."""
        return self._call("POST", "/fleet/resume")

    def set_limits(self, min_workers: int, max_workers: int, reason: str) -> dict[str, Any]:
        """Set limits in place of those of config.yaml."""
        wanted = {"min_workers": min_workers, "max_workers": max_workers, "reason": reason}
        return self._call("PUT", "/fleet/limits", json=wanted)

    def reset_limits(self) -> dict[str, Any]:
        """Let the limits of config.yaml hold again; the answer is empty."""
        return self._call("DELETE", "/fleet/limits", allowed=(204,))

    def drain(self, instance_id: str) -> dict[str, Any]:
        """Ask an instance to drain."""
        return self._call("POST", f"/fleet/instances/{quote(instance_id, safe='')}/drain", allowed=(202,))

    def dead_letters(self) -> Iterator[dict[str, Any]]:
        """Yield the dead letters of all jobs, those of the newest jobs first."""
        query: dict[str, str] = {}
        while True:
            page = self._call("GET", "/dead-letters", params=query)
            yield from page["dead_letters"]
            if page["next"] is None:
                return
            query = {"before": page["next"]}

    def dead_letter(self, job_id: str, image_id: str) -> dict[str, Any]:
        """Return the dead letter of an image."""
        return self._call("GET", _letter_path(job_id, image_id))

    def redrive(self, job_id: str, image_id: str) -> dict[str, Any]:
        """Request the image of a dead letter again."""
        return self._call("POST", f"{_letter_path(job_id, image_id)}/redrive")

    def redrive_all(self) -> dict[str, Any]:
        """Request the images of all dead letters again; return the counts of all calls together."""
        total: Counter[str] = Counter()
        query: dict[str, str] = {}
        while True:
            counts = self._call("POST", "/dead-letters/redrive", params=query)
            before = counts.pop("next")
            total.update(counts)
            if before is None:
                return dict(total)
            query = {"before": before}

    def discard(self, job_id: str, image_id: str) -> None:
        """Discard the dead letter of an image, if there is one."""
        self._call("DELETE", _letter_path(job_id, image_id), allowed=(204,))

    def _call(self, method: str, path: str, allowed: tuple[int, ...] = (200, 201), **options: Any) -> dict[str, Any]:
        try:
            return super()._call(method, path, allowed, **options)
        except ApiError as error:
            if isinstance(error.__cause__, requests.ConnectionError | requests.Timeout):
                raise NotThereError(
                    f"nothing answers at {self.base_url}: start Fleetsight with ./scripts/run.sh, "
                    "or say where it is with --url"
                ) from error
            if isinstance(error.__cause__, requests.RequestException):
                raise NotThereError(
                    f"{self.base_url} is no address to ask at ({error.__cause__}): use --url"
                ) from error
            raise
        except ValueError as error:
            raise NotThereError(
                f"what answers at {self.base_url} is not Fleetsight: say where it is with --url"
            ) from error


def _letter_path(job_id: str, image_id: str) -> str:
    return f"/dead-letters/{quote(job_id, safe='')}/{quote(image_id, safe='')}"
