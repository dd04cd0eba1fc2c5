"""What the controller's loops do about dead letters: record them, and remove those of deleted jobs."""

from web_tier.controller.leader import Loop
from web_tier.controller.loops import FeatureContext
from web_tier.features.dead_letters.store import DeadLetterStore


def loops(context: FeatureContext) -> tuple[Loop, ...]:
    """Add the calls to the core's loops; there is no loop of its own."""
    letters = DeadLetterStore(context.services.store)
    context.on_given_up.append(letters.put_each)
    context.on_removal.append(letters.remove_of)
    return ()
