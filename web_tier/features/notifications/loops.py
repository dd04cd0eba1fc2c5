"""The loop of the controller that publishes messages."""

from core.fleet.store import FleetStore
from web_tier.controller.leader import Loop
from web_tier.controller.loops import FeatureContext
from web_tier.features.notifications.notifier import Notifier, publisher


def loops(context: FeatureContext) -> tuple[Loop, ...]:
    """Return the loop of the notifier, which also follows the autoscaler's rounds and finished jobs."""
    services = context.services
    publish = publisher(services.clients, services.config.notifications.topic_arn)
    fleet = FleetStore(services.store.table)
    notifier = Notifier(services.store, fleet, publish, context.results_files, context.tenure)
    context.on_spending.append(notifier.observe_spending)
    context.on_outage.append(notifier.observe_outage)
    if publish is not None:
        context.on_finished.append(notifier.observe_finished)
    return (Loop("notifier", notifier, "2 s; 10 s at rest", "outbox", "messages", "messages are late"),)
