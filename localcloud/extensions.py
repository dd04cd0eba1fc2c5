"""What a module that ``python -m localcloud cloud --extension MODULE`` imports may add to the local cloud.

The module changes these collections when it is imported; modules of patches it adds to `patches.MODULES`.
"""

from collections.abc import Callable

from localcloud.page_guard import WsgiApp

APPLICATIONS: dict[str, Callable[[], WsgiApp]] = {}
"""Applications by moto's name of the service; each replaces moto's, and is made at the first request."""

MIDDLEWARE: list[Callable[[WsgiApp], WsgiApp]] = []
"""Each wraps the application of all APIs; it sees only requests with a valid signature."""
