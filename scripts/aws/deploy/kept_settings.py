"""The settings of a deleted stack: `down` writes them into the job table that it keeps, and `up` reads them.

The item also says whether a stack has adopted the table since, and given it the settings of its template.
"""

import json
from typing import Any

from scripts.aws.context import AwsContext
from scripts.aws.deploy.stack import StackDescription
from scripts.aws.resources import job_tables
from services.table import Table

_KEY = ("STACK", "SETTINGS")

FORGOTTEN = ("DeletionProtection", "KeptUserPool")
"""Parameters that are not kept: `down` ends the protection, and `up` itself finds the pool."""


def keep_settings(context: AwsContext, stack: StackDescription) -> None:
    """Write the parameters of a stack that is about to be deleted into its job table, if it has one."""
    kept = {name: stack.parameters[name] for name in sorted(stack.parameters.keys() - set(FORGOTTEN))}
    if _write(context, parameters=json.dumps(kept), adopted=0):
        context.report_change(f"kept the settings of the stack in the table {context.prefix}-jobs")


def deleted_stack(context: AwsContext) -> StackDescription | None:
    """Return the last stack with its settings, or None if no table is kept."""
    table = _kept_table(context)
    if table is None:
        return None
    parameters = json.loads(str((table.get(*_KEY) or {}).get("parameters", "{}")))
    return StackDescription(context.prefix, "", "DELETE_COMPLETE", parameters=parameters)


def begin_adoption(context: AwsContext) -> None:
    """Note that the next stack adopts the job table, if it exists, also one that an earlier release has kept."""
    _write(context, adopted=0)


def is_adopting(context: AwsContext) -> bool:
    """Return whether a kept table has not been given the settings of the present template yet."""
    table = _kept_table(context)
    return table is not None and not (table.get(*_KEY) or {}).get("adopted", 1)


def end_adoption(context: AwsContext) -> None:
    """Note that the adopted table has the settings of the present template."""
    _write(context, adopted=1)


def _kept_table(context: AwsContext) -> Table | None:
    own = f"{context.prefix}-jobs"
    return Table(context.account.dynamodb, own) if own in job_tables(context.account, context.prefix) else None


def _write(context: AwsContext, **changes: Any) -> bool:
    """Change attributes of the item, if there is a table, and return whether they were others."""
    table = _kept_table(context)
    if table is None:
        return False
    before: dict[str, Any] = dict(table.get(*_KEY) or {"pk": _KEY[0], "sk": _KEY[1], "parameters": "{}"})
    token = int(before.pop("token", 0)) + 1
    return {**before, **changes} != before and table.put_fenced({**before, **changes}, token)
