"""What a prefix has outside its stack, kind by kind: how it is found, and how it is deleted.

The stack's resources are CloudFormation's to delete. The services are asked one by one for the rest: the Resource
Groups Tagging API lags, and returns deleted resources too.
"""

from scripts.aws.teardown.belongings.compute import COMPUTE
from scripts.aws.teardown.belongings.data import DATA
from scripts.aws.teardown.belongings.kind import Kind
from scripts.aws.teardown.belongings.rest import REST

KINDS: tuple[Kind, ...] = (*COMPUTE, *REST, *DATA)
"""In the order in which they can be deleted."""

__all__ = ["KINDS", "Kind"]
