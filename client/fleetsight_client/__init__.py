"""The client of Fleetsight: the HTTP API in Python, and the command `fleetsight`."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fleetsight_client.api import (
        ApiClient,
        ApiError,
        FleetsightClientError,
        NotRunningError,
        RejectedError,
        UnreachableError,
    )

__version__ = "0.3.0"

__all__ = [
    "ApiClient",
    "ApiError",
    "FleetsightClientError",
    "NotRunningError",
    "RejectedError",
    "UnreachableError",
    "__version__",
]


def __getattr__(name: str) -> Any:
    """Return a class of the API, which is imported only now: `terminal` also works where its packages are missing."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from fleetsight_client import api

    return getattr(api, name)
