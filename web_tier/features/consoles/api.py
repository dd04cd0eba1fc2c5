"""The API of the consoles of instances."""

from datetime import datetime

from flask import Response
from pydantic import Field

from web_tier.auth.identity import current_identity
from web_tier.auth.permissions import Right
from web_tier.features.consoles.console import ConsoleLine, current_consoles
from web_tier.http.backend import current_backend
from web_tier.http.bodies import ApiBody
from web_tier.http.openapi import ApiResponse, operation
from web_tier.http.parsing import json_response
from web_tier.http.routes import Routes

consoles_api = Routes("consoles_api", right=Right.OPERATE)


class ConsoleBody(ApiBody):
    """The newest lines of the console of an instance, in the order in which they were written."""

    instance_id: str
    read_at: datetime = Field(description="EC2 is called at most once in five seconds for an instance.")
    is_latest: bool = Field(
        description="False if EC2 has no latest output of this instance type. The lines are then of the time shortly "
        "after the instance has last changed its state."
    )
    lines: tuple[ConsoleLine, ...]


@consoles_api.get("/fleet/instances/<instance_id>/console")
@operation(ApiResponse(200, "Up to 1,000 lines, of up to 64 KB.", ConsoleBody), name="instance_console", tag="System")
def console(instance_id: str) -> Response:
    """Get the console of an instance.

    For instances that are listed, and for those that have ended in the last hour. The instance has written the lines:
    characters that control a terminal are removed, and a line of JSON is split into its parts.
    """
    backend = current_backend()
    read = current_consoles().read(backend.fleet.known_instance(instance_id), current_identity().owner)
    return json_response(
        ConsoleBody(instance_id=instance_id, read_at=read.read_at, is_latest=read.is_latest, lines=read.lines)
    )
