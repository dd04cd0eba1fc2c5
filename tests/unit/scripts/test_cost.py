"""What a batch or a load test would have cost, from what the API tells."""

from scripts.load.metrics import LoadMetrics, summary_rows
from scripts.run.batch import AwsCost, cost_between, job_cost

TOLD = {"billed_seconds": 120.0, "instances_dollars": 0.0034, "requests_dollars": 0.0013}


def test_a_batch_costs_what_its_job_does() -> None:
    assert str(job_cost({"cost": TOLD})) == "$0.0047 (120 s of instances; requests $0.0013)"
    assert job_cost({"cost": None}) == job_cost({}) == AwsCost()


def test_a_load_test_costs_what_the_fleet_was_billed_meanwhile() -> None:
    before = {"billed_seconds": 100, "cost": 0.01, "images": 50, "requests_dollars_per_1000_images": 0.01}
    after = {"billed_seconds": 700, "cost": 0.03, "images": 1_050, "requests_dollars_per_1000_images": 0.01}
    cost = cost_between(before, after)
    assert cost is not None
    assert (cost.billed_seconds, round(cost.instances_dollars, 6), cost.requests_dollars) == (600, 0.02, 0.01)
    assert cost_between(None, after) == AwsCost(700, 0.03, 0.0105)
    assert cost_between(before, None) is None
    assert cost_between(None, {"billed_seconds": 60, "running": 1}) == AwsCost(60)


def test_a_load_test_tells_what_a_thousand_images_cost_where_the_system_does() -> None:
    figures = LoadMetrics()
    figures.record_verdict("right", images=500)
    summary = figures.summary("api", 500, 2.0)
    assert "1,000 images" not in dict(summary_rows(summary))
    told = dict(summary_rows(figures.summary("api", 500, 2.0, AwsCost(120, 0.0034, 0.0066))))
    assert told["1,000 images"] == "$0.020"
    assert told["meanwhile, the fleet cost"] == "$0.010 (120 s of instances; requests $0.0066)"
