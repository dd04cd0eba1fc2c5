"""What a request asks to be allowed: its actions, their resources, and what conditions may want to know of it.

Actions, resources and condition keys are those of the Service Authorization Reference,
https://docs.aws.amazon.com/service-authorization/latest/reference/, each module naming its page. Calls of services
that no module is for, and of those without resources, ask for ``service:Operation`` on ``*``. Condition keys that the
reference does not list for an action and its resource are left out (`reference`).
"""

import importlib
from collections.abc import Iterable

from localcloud.iam.calls import Call
from localcloud.iam.documents import Asked
from localcloud.iam.reference import is_known, known_keys

_OWN_MODULE = frozenset({"cognito-idp", "s3", "sqs", "dynamodb", "ec2", "sts", "ssm", "logs"})
_PREFIXES = {"monitoring": "cloudwatch", "email": "ses"}
"""Services with actions that begin with another name than the one that they are signed for."""


def questions_of(call: Call) -> tuple[Asked, ...]:
    """Return what a call asks for; nothing where AWS asks no policy.

    Raises:
        UnknownCallError: the request does not say what it is.
    """
    if call.service not in _OWN_MODULE:
        prefix = _PREFIXES.get(call.service, call.service)
        return (Asked(f"{prefix}:{call.operation}", "*", {}),)
    # Late, since each looks into moto's models of its service.
    module = importlib.import_module(f"{__name__}.{call.service.replace('-', '_')}")
    asked: Iterable[Asked] = module.questions(call)
    return tuple(_as_published(each) for each in asked)


def _as_published(asked: Asked) -> Asked:
    """Return a question without the condition keys that AWS does not list for its action and resource."""
    keys = known_keys(asked.action, asked.resource)
    if keys is None:
        return asked
    return Asked(
        asked.action, asked.resource, {name: each for name, each in asked.context.items() if is_known(name, keys)}
    )
