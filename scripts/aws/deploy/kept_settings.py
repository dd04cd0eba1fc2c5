"""The settings of a deleted stack: `down` writes them into the job table that it keeps, and `up` reads them."""

import json
import time

from core.fleet.store import CONTROLLER_LEASE
from scripts.aws.context import AwsContext
from scripts.aws.deploy.stack import StackDescription
from scripts.aws.resources import job_tables
from services.lease import work_table_of
from services.table import Table

_KEY = ("STACK", "SETTINGS")

FORGOTTEN = ("DeletionProtection", "KeptUserPool", "RestoredJobTable")
"""Parameters that are not kept: `down` ends the protection, and `up` itself finds the pool and the table in use."""


def keep_settings(context: AwsContext, stack: StackDescription) -> None:
    """Write the parameters of a stack that is about to be deleted into its job table, if it has one."""
    own = f"{context.prefix}-jobs"
    if own in job_tables(context.account, context.prefix):
        table, chosen = Table(context.account.dynamodb, own), stack.parameters.keys() - set(FORGOTTEN)
        kept = json.dumps({name: stack.parameters[name] for name in sorted(chosen)})
        # A `down` that was interrupted has written them already.
        if (table.get(*_KEY) or {}).get("parameters") != kept:
            table.put_fenced({"pk": _KEY[0], "sk": _KEY[1], "parameters": kept}, int(time.time()))
            context.report_change(f"kept the settings of the stack in the table {own}")


def deleted_stack(context: AwsContext) -> StackDescription | None:
    """Return the last stack with its settings and the restored table that it used, or None if no table is kept."""
    own = f"{context.prefix}-jobs"
    if own not in (tables := job_tables(context.account, context.prefix)):
        return None
    table = Table(context.account.dynamodb, own)
    parameters = json.loads(str((table.get(*_KEY) or {}).get("parameters", "{}")))
    used = work_table_of(table, CONTROLLER_LEASE)
    restored = {"RestoredJobTable": used} if used != own and used in tables else {}
    return StackDescription(context.prefix, "", "DELETE_COMPLETE", parameters={**parameters, **restored})
