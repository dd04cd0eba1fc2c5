"""Decisions are those of an independent evaluator of IAM policies, as it was recorded."""

import json

from localcloud.iam.decisions import decide
from localcloud.iam.documents import Asked
from tests.support.iam_cases import VERDICTS, Case, cases, digest
from tests.unit.localcloud.iam.policies import policy


def is_allowed(case: Case) -> bool:
    context = {
        key.lower(): tuple(value) if isinstance(value, list) else (value,) for key, value in case["context"].items()
    }
    return decide([policy(*case["statements"])], Asked(case["action"], case["resource"], context)).allowed


def test_each_case_is_decided_as_by_an_independent_evaluator() -> None:
    recorded = json.loads(VERDICTS.read_text())
    assert recorded["sha256"] == digest(), "the cases have changed: record them anew by iam_verdicts.mjs"
    allowed = [verdict == "1" for verdict in recorded["allowed"]]
    differing = [
        (case, verdict) for case, verdict in zip(cases(), allowed, strict=True) if is_allowed(case) != verdict
    ]
    assert differing == []
    assert 0.2 < sum(allowed) / len(allowed) < 0.8, "both decisions are among them"
