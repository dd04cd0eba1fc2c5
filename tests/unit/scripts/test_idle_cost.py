"""What a stack costs while nobody uses it."""

import pytest

from scripts.aws.bake.spec import disk_gib
from scripts.aws.deploy.idle_cost import WEB_DISK_GB, BilledParts, monthly_cost
from scripts.aws.deploy.settings import validated_config
from scripts.aws.preflight.instances import DISK_GIB
from tests.support.stack_template import RESOURCES, TEMPLATE

CONFIG = validated_config({})
PARTS = BilledParts("c7a.large", alarms=4, dashboards=1, images_gb=48)


def test_the_monthly_cost_uses_list_prices() -> None:
    rows = dict(monthly_cost(PARTS, CONFIG))
    assert rows["web instance, c7a.large"] == pytest.approx(0.10264 * 730)
    assert rows["disks, 16 GB"] == pytest.approx(1.28)
    assert rows["public addresses, 1"] == pytest.approx(3.65)
    assert rows["alarms, 4"] == pytest.approx(0.4)
    assert rows["dashboards, 1"] == pytest.approx(3.0)
    assert rows["snapshots of images, up to 48 GB"] == pytest.approx(2.4)
    # 2.8 polls a second at an interval of one, and the table's lease.
    assert 2 < rows["requests of a controller at rest"] < 6
    assert rows["logs of a controller at rest"] == pytest.approx(730 * 60 * 450 / 1e9 * 0.5)
    assert "load balancer" not in rows


def test_a_load_balancer_costs_its_hours_and_an_address_in_each_zone() -> None:
    rows = dict(monthly_cost(BilledParts("c7a.large", load_balancers=1, zones=3), CONFIG))
    assert rows["load balancer"] == pytest.approx(16.425)
    assert rows["public addresses, 4"] == pytest.approx(4 * 3.65)


def test_each_web_instance_costs_its_hours_its_disk_and_its_address() -> None:
    rows = dict(monthly_cost(BilledParts("c7a.large", web_instances=3, load_balancers=1, zones=2), CONFIG))
    assert rows["3 web instances, c7a.large"] == pytest.approx(3 * 0.10264 * 730)
    assert rows["disks, 48 GB"] == pytest.approx(3.84)
    assert "public addresses, 5" in rows


def test_minimum_workers_cost_the_same_as_others() -> None:
    rows = dict(monthly_cost(PARTS, validated_config({"fleet.min_workers": "2", "fleet.market": "spot"})))
    assert rows["2 workers that stand by, c7a.large"] == pytest.approx(2 * 0.041 * 730)
    assert rows["disks, 32 GB"] == pytest.approx(2.56)
    assert "disks, 64 GB" in dict(
        monthly_cost(PARTS, validated_config({"fleet.min_workers": "2", "worker.engine": "torch"}))
    )
    assert "public addresses, 3" in rows


def test_the_default_budget_is_twice_the_idle_cost() -> None:
    whole = BilledParts("c7a.large", alarms=6, dashboards=1, metrics=4, images_gb=16)
    at_rest = sum(dollars for _, dollars in monthly_cost(whole, CONFIG))
    assert TEMPLATE["Parameters"]["MonthlyBudget"]["Default"] == round(2 * at_rest, -1)


def test_the_parts_are_counted_by_the_types_of_the_resources() -> None:
    kinds = ["AWS::CloudWatch::Alarm"] * 2 + ["AWS::S3::Bucket", "AWS::ElasticLoadBalancingV2::LoadBalancer"]
    wanted = BilledParts("m7a.large", web_instances=3, load_balancers=1, zones=2, alarms=2)
    assert BilledParts.from_resources(kinds, "m7a.large", 2, 0, web_instances=3) == wanted


def test_disk_costs_follow_the_template_and_the_image() -> None:
    sizes = {}
    for name in ("WebTemplate", "WorkerTemplate"):
        (disk,) = RESOURCES[name]["Properties"]["LaunchTemplateData"]["BlockDeviceMappings"]
        sizes[name] = disk["Ebs"]["VolumeSize"]
    assert sizes == {"WebTemplate": WEB_DISK_GB, "WorkerTemplate": {"Ref": "WorkerDiskGiB"}}
    assert TEMPLATE["Parameters"]["WorkerDiskGiB"]["Default"] == disk_gib("worker", "openvino")
    assert disk_gib("worker", "torch") <= DISK_GIB, "EC2 refuses a disk that is smaller than its image's"
