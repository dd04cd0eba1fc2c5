"""Prices for tests: plain figures, unlike those of any region."""

from core.config import PriceSettings

PRICES = PriceSettings(
    instance_hour={"c7a.large": 0.36, "g4dn.xlarge": 0.72},
    spot_hour={"c7a.large": 0.18},
    minimum_billed_seconds=60,
    s3_put_thousand=0.005,
    s3_get_thousand=0.0004,
    sqs_million=0.4,
    dynamodb_write_million=0.625,
    dynamodb_read_million=0.125,
    disk_gb_month=0.08,
    snapshot_gb_month=0.05,
    public_address_hour=0.005,
    load_balancer_hour=0.0225,
    alarm_month=0.1,
    metric_month=0.3,
    log_gb=0.5,
    dashboard_month=3,
    object_gb_month=0.023,
    item_gb_month=0.45,
)
