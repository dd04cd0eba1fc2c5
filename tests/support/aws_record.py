"""A record of the calls of AWS in a run on an account, in JSON lines: for what the documents only estimate or assume.

A line has the time, the service, the operation, the error code or nothing, and the seconds. It has no parameters and
no answers, because they hold passwords and keys. A line of a step has its words and seconds instead.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from botocore.client import BaseClient
from botocore.exceptions import ClientError

from services.clock import utc_now


@dataclass(frozen=True)
class AwsRecord:
    """Writes the lines of a record; each line is written at once, so that a killed run has left its own."""

    path: Path

    @contextmanager
    def calls(self) -> Iterator[None]:
        """Record each call of this process."""
        make = BaseClient._make_api_call  # type: ignore[attr-defined]

        def record(client: Any, operation: str, parameters: Any) -> Any:
            began, code = time.monotonic(), ""
            try:
                return make(client, operation, parameters)
            except ClientError as error:
                code = error.response["Error"]["Code"]
                raise
            finally:
                service = client.meta.service_model.service_name
                self._write({"service": service, "operation": operation, "error": code}, began)

        with patch.object(BaseClient, "_make_api_call", record):
            yield

    @contextmanager
    def step(self, words: str) -> Iterator[None]:
        """Record how long a step takes."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._write({"step": words}, began)

    def _write(self, line: dict[str, str], began: float) -> None:
        seconds = round(time.monotonic() - began, 3)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"at": utc_now().isoformat(), **line, "seconds": seconds}) + "\n")
