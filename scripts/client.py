"""A client of operators' endpoints of the HTTP API, for the commands and the tests."""

from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, Final
from urllib.parse import quote

from fleetsight_client.api import ApiClient

WILDCARD_ADDRESSES = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # nosec B104 # noqa: S104 (what is listened at, not where)
"""Addresses that listen at all interfaces, and the ones to call instead."""

BUNDLE_SECONDS: Final = 150.0
"""The longest wait for an answer about a bundle, which the web tier copies, and tries for two minutes to load."""


def web_url(host: str, port: int) -> str:
    """Return the address of the web tier that listens at `host`, on its own machine."""
    host = WILDCARD_ADDRESSES.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@dataclass
class FleetClient(ApiClient):
    """A client of operators' endpoints: the fleet, models and dead letters; methods return the body of the answer.

    Raises:
        UnreachableError: nothing answers.
        NotRunningError: another server does.
        ApiError: the API rejects the call; the message says why.
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

    def set_limits(self, min_workers: int | None, max_workers: int, reason: str) -> dict[str, Any]:
        """Override the limits of config.yaml; without `min_workers` keep the minimum, if the maximum allows it."""
        wanted = {"min_workers": min_workers, "max_workers": max_workers, "reason": reason}
        return self._call("PUT", "/fleet/limits", json=wanted)

    def reset_limits(self) -> dict[str, Any]:
        """Remove the override of the limits; the answer is empty."""
        return self._call("DELETE", "/fleet/limits", allowed=(204,))

    def allow_dollars(self, dollars: float, reason: str) -> dict[str, Any]:
        """Raise the spending caps until midnight UTC."""
        return self._call("PUT", "/fleet/allowance", json={"dollars": dollars, "reason": reason})

    def reset_allowance(self) -> dict[str, Any]:
        """Withdraw the allowance of today; the answer is empty."""
        return self._call("DELETE", "/fleet/allowance", allowed=(204,))

    def drain(self, instance_id: str) -> dict[str, Any]:
        """Drain an instance."""
        return self._call("POST", f"/fleet/instances/{quote(instance_id, safe='')}/drain", allowed=(202,))

    def console(self, instance_id: str) -> dict[str, Any]:
        """Return the newest lines of an instance's console."""
        return self._call("GET", f"/fleet/instances/{quote(instance_id, safe='')}/console")

    def add_model(self, place: str, name: str | None) -> dict[str, Any]:
        """Add the bundle at a place as a model that jobs may name."""
        with closing(replace(self, timeout_seconds=(self.timeout_seconds[0], BUNDLE_SECONDS))) as patient:
            return patient._call("POST", "/models", json={"place": place, "name": name})

    def remove_model(self, name: str) -> None:
        """Remove a model; its jobs go on."""
        self._call("DELETE", f"/models/{quote(name, safe='')}", allowed=(204,))

    def use_model(self, name: str) -> dict[str, Any]:
        """Give new jobs the model with this name."""
        return self._call("PUT", "/models/default", json={"model": name})

    def roll_back_model(self) -> dict[str, Any]:
        """Give new jobs the model that they got before."""
        return self._call("POST", "/models/roll-back")

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


def _letter_path(job_id: str, image_id: str) -> str:
    return f"/dead-letters/{quote(job_id, safe='')}/{quote(image_id, safe='')}"
