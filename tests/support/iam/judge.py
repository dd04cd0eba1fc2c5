"""Asks the npm package `@cloud-copilot/iam-simulate`, which knows AWS's service data, whether calls are allowed.

`tests.support.node` installs it beside this file.
"""

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.support.node import NODE, install

FOLDER = Path(__file__).parent
JUDGE_SECONDS = 120

_STAND_IN = ("kms:EncryptionContext:PARAMETER_ARN", "kms:RequestAlias")
"""iam-simulate loses a key with a variable part after a colon, so another key of the same actions replaces it."""

Context = Mapping[str, str | Sequence[str]]
Policies = Mapping[str, Mapping[str, Any]]
"""Documents by their names."""


class JudgeError(RuntimeError):
    """Raised when iam-simulate cannot decide a check."""


@dataclass(frozen=True)
class PermissionCheck:
    """An action on a resource, with the condition keys of the request.

    Attributes:
        resource_policy: of the resource: the trust policy of a role, or the policy of a key.
    """

    action: str
    resource: str
    context: Context = field(default_factory=dict)
    resource_policy: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Verdict:
    """A decision.

    Attributes:
        statements: the names of the statements that allow the action.
    """

    allowed: bool
    statements: tuple[str, ...]


def judge(
    principal: str, policies: Policies, checks: Sequence[PermissionCheck], boundary: Mapping[str, Any] | None = None
) -> list[Verdict]:
    """Return a verdict for each check of a principal with these policies.

    Args:
        principal: its ARN.
        policies: of the principal.
        checks: what it does.
        boundary: its permissions boundary, if it has one.

    Raises:
        JudgeError: AWS's data do not know an action, a resource of it, or a condition key.
    """
    install(FOLDER)
    named = [{"name": name, "policy": document} for name, document in policies.items()]
    asked_of = {"principal": principal, "policies": named, "boundary": boundary}
    question = {**asked_of, "checks": [asdict(check) for check in checks]}
    asked = json.dumps(question).replace(*_STAND_IN)
    environment = {**os.environ, "NODE_OPTIONS": ""}
    command = [str(NODE), str(FOLDER / "judge.mjs")]
    done = subprocess.run(
        command, input=asked, env=environment, capture_output=True, text=True, timeout=JUDGE_SECONDS, check=False
    )
    if done.returncode:
        raise JudgeError(done.stderr)
    return [Verdict(each["allowed"], tuple(each["statements"])) for each in json.loads(done.stdout)]
