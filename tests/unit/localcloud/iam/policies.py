"""Policies for tests."""

import json
from typing import Any

from localcloud.iam.documents import Asked, Policy, parse_policy


def statement(effect: str, action: Any, resource: Any = "*", **more: Any) -> dict[str, Any]:
    """Return a statement as a document has it."""
    return {"Effect": effect, "Action": action, "Resource": resource, **more}


def policy(*statements: dict[str, Any], name: str = "own") -> Policy:
    """Return a policy of these statements."""
    return parse_policy(name, document(*statements))


def document(*statements: dict[str, Any]) -> str:
    """Return a document of these statements."""
    return json.dumps({"Version": "2012-10-17", "Statement": list(statements)})


def asked(action: str, resource: str = "*", **context: str) -> Asked:
    """Return a question; in the names of the context `__` stands for a colon."""
    return Asked(action, resource, {name.replace("__", ":"): (value,) for name, value in context.items()})
