"""``fleetsight model``: the commands about bundles, and about the models of a running system."""

import click

from scripts.lazy_group import LazyGroup

COMMANDS = {
    "add": "scripts.model.catalog:add_command",
    "build": "scripts.model.commands:build",
    "list": "scripts.model.catalog:list_command",
    "remove": "scripts.model.catalog:remove_command",
    "roll-back": "scripts.model.catalog:roll_back_command",
    "show": "scripts.model.commands:show",
    "try": "scripts.model.commands:try_command",
    "use": "scripts.model.catalog:use_command",
    "verify": "scripts.model.commands:verify",
}


@click.group(cls=LazyGroup, sections={"Commands": COMMANDS})
def model() -> None:
    """Build, show and verify model bundles, and choose the models of a running system."""
