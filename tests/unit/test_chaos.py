"""The checks of a campaign find faults."""

from collections.abc import Sequence
from typing import Any, cast

import pytest

from fleetsight_client.api import ApiClient
from tests.chaos.client import ChaosClient
from tests.chaos.judge import CampaignVerdict, Evidence, check_job, count_repairs, judge_evidence

PICTURES = [(b"red", "stop"), (b"blue", "yield")]


def result(number: int, **changes: Any) -> dict[str, Any]:
    return {"image_id": f"i{number}", "filename": f"{number}.jpg", "status": "done", "label": "stop", **changes}


def found(results: list[dict[str, Any]]) -> list[str]:
    client = ChaosClient(cast(ApiClient, None), PICTURES, 0)
    client.acknowledged = {"i0": ("job", "0.jpg", 0)}
    verdict = CampaignVerdict()
    check_job(client, "job", results, verdict)
    return sorted(verdict.counts.elements())


@pytest.mark.parametrize(
    ("results", "findings"),
    [
        ([result(0)], []),
        ([], ["lost"]),
        ([result(0, status="waiting", label=None)], ["lost"]),
        ([result(0, status="failed", label=None, error={})], ["failed"]),
        ([result(0, label="yield")], ["wrong"]),
        ([result(0), result(0, image_id="i1")], ["doubled", "unexpected"]),
        ([result(0), result(1)], ["unexpected"]),
    ],
)
def test_each_kind_of_finding_is_detected(results: list[dict[str, Any]], findings: list[str]) -> None:
    assert found(results) == findings


def evidence(recorded: Sequence[float] = (), **changes: Any) -> Evidence:
    return Evidence(recorded, **{"repairs": {}, **changes})


LOST_RESPONSE = '{"message": "recorded a result after its response was lost"}'
REQUESTED_AGAIN = '{"message": "requested images again", "sent": 6, "refused": 1}'


@pytest.mark.parametrize(
    ("judged", "findings"),
    [
        (evidence([1.0, 60.0, 120.0]), []),
        (evidence([1.0, 62.0]), ["silent"]),
        (evidence(repairs=count_repairs([LOST_RESPONSE] * 10 + [REQUESTED_AGAIN, "no JSON"])), []),
        (evidence(repairs=count_repairs([LOST_RESPONSE] * 11)), ["repaired too often"]),
        (evidence(repairs=count_repairs([REQUESTED_AGAIN] * 2)), ["repaired too often"]),
    ],
)
def test_a_silence_and_many_repairs_are_findings(judged: Evidence, findings: list[str]) -> None:
    verdict = CampaignVerdict(images=1_000)
    judge_evidence(judged, verdict)
    assert sorted(verdict.counts.elements()) == findings
