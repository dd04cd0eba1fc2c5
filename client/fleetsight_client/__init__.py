"""The client of Fleetsight: the HTTP API in Python, and the command `fleetsight`."""

from fleetsight_client.api import (
    ApiClient,
    ApiError,
    FleetsightClientError,
    NotRunningError,
    RejectedError,
    UnreachableError,
)

__version__ = "0.1.0"

__all__ = [
    "ApiClient",
    "ApiError",
    "FleetsightClientError",
    "NotRunningError",
    "RejectedError",
    "UnreachableError",
    "__version__",
]
