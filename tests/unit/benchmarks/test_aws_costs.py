"""What AWS costs, and that docs/aws-costs.md says the same."""

import pytest
from rich.console import Console

from benchmarks.aws_costs import (
    IMAGES_A_SECOND,
    WITH,
    WITHOUT,
    batch_seconds,
    idle_month,
    idle_table,
    run,
    thousand_images,
    thousand_table,
)
from core.config import Config
from core.cost import requests_of
from scripts.aws.deploy.idle_cost import METRICS
from scripts.aws.deploy.settings import validated_config
from scripts.run.system import ROOT
from tests.support.stack_template import of_this_stack


@pytest.fixture(scope="module")
def config() -> Config:
    """What the stack runs with."""
    return validated_config({})


@pytest.mark.parametrize("table", [idle_table, thousand_table])
def test_the_page_about_costs_has_the_figures_that_the_command_prints(table: object, config: Config) -> None:
    text = (ROOT / "docs" / "aws-costs.md").read_text()
    made = table(config)  # type: ignore[operator]
    assert made in text, f"docs/aws-costs.md is behind; python -m benchmarks aws_costs prints:\n{made}"


def test_what_decides_about_the_costs_is_set_as_in_the_stack(config: Config) -> None:
    of_stack = of_this_stack()
    assert config.controller == of_stack.controller
    assert config.worker.idle_seconds == of_stack.worker.idle_seconds
    assert (config.fleet.policy, config.fleet.target_seconds) == (
        of_stack.fleet.policy,
        of_stack.fleet.target_seconds,
    )


def test_a_small_batch_is_billed_for_boot_and_idleness_of_each_of_its_workers(config: Config) -> None:
    assert batch_seconds(config, 100) == pytest.approx(42 + 30 + 100 / IMAGES_A_SECOND)
    fleet = config.fleet.model_copy(update={"policy": "backlog"})
    backlog = config.model_copy(update={"fleet": fleet})
    assert batch_seconds(backlog, 100) == pytest.approx(2 * (42 + 30 + 50 / IMAGES_A_SECOND))
    assert batch_seconds(backlog, 10_000) == pytest.approx(19 * (42 + 30) + 10_000 / IMAGES_A_SECOND)


def test_a_worker_is_billed_for_a_minute_at_least(config: Config) -> None:
    quick = config.model_copy(update={"fleet": config.fleet.model_copy(update={"boot_seconds": 5.0})})
    assert batch_seconds(quick, 1) == 60


def test_1000_images_cost_their_instances_and_their_requests(config: Config) -> None:
    first, *_, last = thousand_images(config)
    assert first.on_demand == pytest.approx(batch_seconds(config, 100) * 10 / 3600 * 0.10264)
    assert first.spot == pytest.approx(batch_seconds(config, 100) * 10 / 3600 * 0.041)
    assert first.requests == pytest.approx(requests_of(100).dollars(config.prices) * 10)
    assert last.on_demand == pytest.approx(1_000 / IMAGES_A_SECOND / 3600 * 0.10264)


def test_at_rest_alarms_and_metrics_are_counted_as_the_template_has_them(config: Config) -> None:
    plain, balanced = dict(idle_month(config, WITHOUT)), dict(idle_month(config, WITH))
    assert plain[f"metrics of the logs, {METRICS}"] == pytest.approx(3.60)
    assert plain["alarms, 7"] == balanced["alarms, 7"] == pytest.approx(0.70)
    assert "load balancer" not in plain
    assert balanced["load balancer"] > 0


def test_the_command_prints_both_tables(capsys: pytest.CaptureFixture[str], config: Config) -> None:
    report = run(True)
    assert thousand_table(config) in capsys.readouterr().out
    assert report.ok
    report.show(Console(quiet=True))
