"""The fleet's items in the job table: what the controller tells, and what ops tell the controller.

| partition | sort key                 | holds                                                    | written by |
|-----------|--------------------------|----------------------------------------------------------|------------|
| `FLEET`   | `SNAPSHOT`               | what the autoscaler saw and decided last                 | controller |
| `FLEET`   | `INSTANCES`              | the instances, with what their workers say of themselves | controller |
| `FLEET`   | `DECISIONS`              | the last decisions in words                              | controller |
| `FLEET`   | `HISTORY#` span `#` slot | a stretch of the fleet's history                         | controller |
| `FLEET`   | `PAUSE`                  | since when the fleet is paused; absent while it is not   | web        |

There is a fixed number of history items, each used again in its turn, so that there is nothing to remove.
"""

from dataclasses import dataclass
from datetime import datetime

from services.fleet import Decisions, FleetInstances, HistoryBlock, Span
from services.messages import FleetPause, FleetSnapshot
from services.table import LAST, Item, Table

FLEET = "FLEET"
"""The partition."""
SNAPSHOT = "SNAPSHOT"
_INSTANCES, _DECISIONS, _PAUSE, _HISTORY = "INSTANCES", "DECISIONS", "PAUSE", "HISTORY#"
_BODY = "body"


@dataclass(frozen=True, slots=True)
class FleetState:
    """What there is to tell of the fleet; `snapshot` is None before the controller's first look."""

    snapshot: FleetSnapshot | None
    instances: FleetInstances
    decisions: Decisions
    pause: FleetPause | None


@dataclass(frozen=True)
class FleetStore:
    """Reads and writes the fleet's items. botocore's errors pass through, as does `TableBusyError`."""

    table: Table

    # Ops

    def pause(self, now: datetime, reason: str) -> FleetPause:
        """Pause the fleet; one that is paused already stays so since it was, with the new reason if there is one."""
        there = self.paused()
        if there is not None and not reason:
            return there
        pause = FleetPause(since=there.since if there else now, reason=reason)
        self._put(_PAUSE, pause.to_json())
        return pause

    def resume(self) -> None:
        """End the pause, if there is one."""
        self.table.delete_all([(FLEET, _PAUSE)])

    def paused(self) -> FleetPause | None:
        """Return the pause that is on, if any."""
        body = self._body(_PAUSE)
        return None if body is None else FleetPause.from_json(body)

    # What the controller tells

    def put_instances(self, instances: FleetInstances) -> None:
        """Store the instances over the last ones."""
        self._put(_INSTANCES, instances.to_json())

    def instances(self) -> FleetInstances:
        """Return the instances as they were stored last."""
        body = self._body(_INSTANCES)
        return FleetInstances() if body is None else FleetInstances.from_json(body)

    def put_decisions(self, decisions: Decisions) -> None:
        """Store the last decisions over those before."""
        self._put(_DECISIONS, decisions.to_json())

    def decisions(self) -> Decisions:
        """Return the last decisions."""
        body = self._body(_DECISIONS)
        return Decisions() if body is None else Decisions.from_json(body)

    def put_block(self, span: Span, slot: int, block: HistoryBlock) -> None:
        """Store a stretch of history in the item `slot` of its span, over what was there."""
        self._put(f"{_HISTORY}{span}#{slot:02}", block.to_json())

    def blocks(self, span: Span | None = None) -> list[HistoryBlock]:
        """Return what is stored of the history, of one span or of both, in no order."""
        prefix = _HISTORY if span is None else f"{_HISTORY}{span}#"
        return [HistoryBlock.from_json(str(item[_BODY])) for item in self.table.query(FLEET, prefix, prefix + LAST)]

    def state(self) -> FleetState:
        """Return everything but the history, in one read."""
        keys = (SNAPSHOT, _INSTANCES, _DECISIONS, _PAUSE)
        items = {str(item["sk"]): item for item in self.table.get_all([(FLEET, key) for key in keys])}

        def body(key: str) -> str | None:
            return str(items[key][_BODY]) if key in items else None

        instances, decisions, pause = body(_INSTANCES), body(_DECISIONS), body(_PAUSE)
        return FleetState(
            snapshot=FleetSnapshot.from_json(str(items[SNAPSHOT]["snapshot"])) if SNAPSHOT in items else None,
            instances=FleetInstances.from_json(instances) if instances else FleetInstances(),
            decisions=Decisions.from_json(decisions) if decisions else Decisions(),
            pause=FleetPause.from_json(pause) if pause else None,
        )

    def _put(self, key: str, body: str) -> None:
        item: Item = {"pk": FLEET, "sk": key, _BODY: body}
        self.table.put_all([item])

    def _body(self, key: str) -> str | None:
        item = self.table.get(FLEET, key)
        return None if item is None else str(item[_BODY])
