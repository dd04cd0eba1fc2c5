"""What rehearsals of ``bake``, ``up``, ``roll`` and ``down`` need: an extension of the local cloud.

It adds CloudFormation and Auto Scaling, and corrects moto where only these commands call it.

CloudFormation creates a stack once, and deletes it. It proves that the resources of a template can be created in the
order of their references, and that settings and user data reach the instances. It does not simulate what only AWS can
prove: updates, rollback, imports and the validation of change sets. Tests of those use AWS's documented answers
(`tests/unit/scripts`). moto's creates resources without calling their services, so the patches of moto would not
apply to them.

An independent emulator, ministack, creates, updates and deletes the stack in
`tests/integration/test_stack_elsewhere.py`, which lists what it lacks. It has no processes behind instances, which
`tests/integration/test_least_privilege.py` needs, and no answers for the checks before `up`.

It has an account of its own, so that its CloudFormation cannot create the resources of a stack in the local cloud.
"""

import json
from collections.abc import Iterable
from typing import Any

from localcloud.dispatch import JSON_TYPE, DirectResponse, service_of
from localcloud.extensions import APPLICATIONS, MIDDLEWARE
from localcloud.page_guard import WsgiApp
from localcloud.patches import MODULES
from tests.support.account.loopback import learning_the_address

ACCOUNT_APIS = (__name__,)
"""For `LocalCloud`: the extensions with which it is an account that stacks can be rehearsed in."""


def _stacks() -> Any:
    from tests.support.account.stacks import answer  # late: it imports moto

    return answer


def _on_the_paid_plan(aws: WsgiApp) -> WsgiApp:
    """Return the application of all APIs, which answers for the Free Tier's too: moto has none.

    https://docs.aws.amazon.com/aws-cost-management/latest/APIReference/API_freetier_GetAccountPlanState.html
    """

    def answer(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if service_of(environ) != "freetier":
            return aws(environ, start_response)
        state = {"accountId": "123456789012", "accountPlanType": "PAID", "accountPlanStatus": "ACTIVE"}
        return DirectResponse([("Content-Type", JSON_TYPE)], json.dumps(state).encode()).send(start_response)

    return answer


APPLICATIONS["cloudformation"] = _stacks
MIDDLEWARE += [learning_the_address, _on_the_paid_plan]
for _service, _module in {
    "autoscaling": "autoscaling", "cognitoidp": "cognito", "ec2": "ec2", "s3": "s3"
}.items():  # fmt: skip
    MODULES[_service] = (*MODULES.get(_service, ()), f"{__name__}.{_module}")
