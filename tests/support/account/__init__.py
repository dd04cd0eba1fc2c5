"""CloudFormation and Auto Scaling for rehearsals of ``up``, ``roll`` and ``down``: an extension of the local cloud.

CloudFormation creates a stack once, and deletes it. It proves that the resources of a template can be created in the
order of their references, and that settings and user data reach the instances. It does not simulate what only AWS can
prove: updates, rollback, imports and the validation of change sets. Tests of those use AWS's documented answers
(`tests/unit/scripts`). moto's creates resources without calling their services, so the patches of moto would not
apply to them.
"""

from typing import Any

from localcloud.extensions import APPLICATIONS
from localcloud.patches import MODULES

ACCOUNT_APIS = (__name__,)
"""For `LocalCloud`: the extensions with which it has CloudFormation and groups of instances."""


def _stacks() -> Any:
    from tests.support.account.api import StacksApplication  # late: it imports moto

    return StacksApplication()


APPLICATIONS["cloudformation"] = _stacks
MODULES["autoscaling"] = ("tests.support.account.autoscaling",)
