"""Everything that carries a prefix's tag, kind by kind: how it is found, and how it is taken away.

The services are asked one by one: the Resource Groups Tagging API, which knows many of them, lags and misses some.
"""

from scripts.aws.teardown.belongings.compute import COMPUTE
from scripts.aws.teardown.belongings.data import DATA
from scripts.aws.teardown.belongings.kind import Kind
from scripts.aws.teardown.belongings.rest import REST, STACK_ONLY

KINDS: tuple[Kind, ...] = (*COMPUTE, *REST, *STACK_ONLY, *DATA)
"""In the order in which they can be deleted."""

__all__ = ["KINDS", "Kind"]
