"""Which statement allowed or denied what, and how often: so that a test can see that each is used."""

import threading
from dataclasses import dataclass
from typing import Any

from localcloud.iam.decisions import Decision

MAX_ROWS = 20_000
"""Beyond these, what is asked of a resource that is new is counted under ``…`` in its place."""

_OTHERS = "…"


@dataclass(frozen=True, slots=True)
class _Row:
    role: str
    action: str
    resource: str
    allowed: bool
    statements: tuple[tuple[str, str], ...]
    why: str


class DecisionRecord:
    """The decisions of this process; threads may share it."""

    def __init__(self) -> None:
        self._counts: dict[_Row, int] = {}
        self._turn = threading.Lock()

    def note(self, role: str, decision: Decision) -> None:
        """Count a decision about what a role asked."""
        asked = decision.asked
        row = _Row(role, asked.action, asked.resource, decision.allowed, decision.rests_on, decision.why)
        with self._turn:
            if row not in self._counts and len(self._counts) >= MAX_ROWS:
                row = _Row(role, asked.action, _OTHERS, decision.allowed, decision.rests_on, decision.why)
            self._counts[row] = self._counts.get(row, 0) + 1

    def rows(self) -> list[dict[str, Any]]:
        """Return them: `role`, `action`, `resource`, `allowed`, `statements`, `why` and `count`.

        `statements` is every statement that the decision rests on, each with its `policy` and `sid`: all that deny,
        or else all that allow. `why` says of a denial what AWS would.
        """
        with self._turn:
            counted = list(self._counts.items())
        return [
            {
                "role": row.role,
                "action": row.action,
                "resource": row.resource,
                "allowed": row.allowed,
                "statements": [{"policy": policy, "sid": sid} for policy, sid in row.statements],
                "why": row.why,
                "count": count,
            }
            for row, count in counted
        ]


decisions = DecisionRecord()
"""Those of this process."""
