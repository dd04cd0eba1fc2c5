"""``fleetsight model``: the commands about bundles, and those that roll them out in a running system."""

import click

from scripts.lazy_group import LazyGroup

COMMANDS = {
    "add": "scripts.model.rollout:add_command",
    "build": "scripts.model.commands:build",
    "compare": "scripts.model.comparison:compare_command",
    "list": "scripts.model.rollout:list_command",
    "move-jobs": "scripts.model.rollout:move_jobs_command",
    "promote": "scripts.model.rollout:promote_command",
    "remove": "scripts.model.rollout:remove_command",
    "roll-back": "scripts.model.rollout:roll_back_command",
    "roll-out": "scripts.model.rollout:roll_out_command",
    "show": "scripts.model.commands:show",
    "try": "scripts.model.commands:try_command",
    "verify": "scripts.model.commands:verify",
}


@click.group(cls=LazyGroup, sections={"Commands": COMMANDS})
def model() -> None:
    """Build, show and verify model bundles, and roll them out in a running system."""
