"""The page with the console of an instance, for operators."""

from core.fleet.models import FleetInstance
from web_tier.auth.identity import current_identity
from web_tier.auth.permissions import Right
from web_tier.features.consoles.console import current_consoles
from web_tier.http.backend import current_backend, render_with_fleet
from web_tier.http.routes import Routes

console_pages = Routes("consoles", right=Right.OPERATE)


@console_pages.get("/fleet/instances/<instance_id>/console")
def console_page(instance_id: str) -> str:
    """Show the newest lines of an instance's console."""
    backend = current_backend()
    instance = backend.fleet.known_instance(instance_id)
    return render_with_fleet(
        "console.html",
        instance=instance,
        state=instance.state if isinstance(instance, FleetInstance) else "ended",
        console=current_consoles().read(instance, current_identity().owner),
    )
