"""The quotas of EC2 that a stack needs, and how much of them is used."""

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from scripts.aws.context import AwsAccount
from scripts.aws.instances import describe_instance_types
from scripts.aws.preflight.findings import Finding, Level, StackPlan

if TYPE_CHECKING:
    from mypy_boto3_ec2.type_defs import FilterTypeDef, InstanceTypeDef

STANDARD = {"on_demand": "L-1216C47A", "spot": "L-34B43A08"}

GRAPHICS = {"on_demand": "L-DB2E81BA", "spot": "L-3819A6DF"}
"""Codes of EC2's quotas, which count vCPUs, by market.

https://docs.aws.amazon.com/ec2/latest/instancetypes/ec2-instance-quotas.html
"""

FAMILIES = {
    **dict.fromkeys(("a", "c", "d", "h", "i", "im", "is", "m", "r", "t", "z"), STANDARD),
    **dict.fromkeys(("g", "gr", "vt"), GRAPHICS),
}
"""The quotas of an instance type, by the first letters of its name."""

ADDRESSES = "L-0263D0A3"
"""Code of EC2's quota of Elastic IP addresses in a region."""


def check_quota(plan: StackPlan) -> Iterable[Finding]:
    """Find quotas that are too small for the web instances, the builders, or the largest fleet.

    A quota counts the vCPUs of all instances of the account in the region. Only for a stack that exists, the check
    reads which instances run.
    """
    fleet, web = plan.fleet, plan.web_type
    cpus = {name: kind.vcpus for name, kind in plan.instance_types.items()}
    codes = {(web, "on_demand"), *((kind, market) for kind in fleet.instance_types for market in plan.markets)}
    quotas = {each: code for each in codes if (code := quota_code(*each))}
    limits = {code: quota_limit(plan.account, code) for code in sorted(set(quotas.values()))}
    for kind, market in sorted(codes - set(quotas)):
        yield Finding(Level.WARNING, f"unknown: which quota counts the vCPUs of {kind} ({market})")
    web_code = quotas.get((web, "on_demand"))
    if web_code:
        # An update of the stack launches the first new web instance before it ends an old one; a bake on a small
        # quota builds one image after the other.
        at_once = cpus[web] * (plan.web_instances + (not plan.is_new))
        if limits[web_code] < at_once:
            words = f"{limits[web_code]} vCPUs may run on demand; the web tier or a builder needs {at_once} at once"
            yield Finding(Level.STOP, words, _increase_command(web_code, at_once))
            return
        used = 0 if plan.is_new else sum(running_vcpus(plan.account, web_code).values())
        if not plan.is_new and used + cpus[web] > limits[web_code]:
            words = f"{used} of {limits[web_code]} vCPUs are in use: workers end while a web instance is replaced"
            yield Finding(Level.WARNING, words, _increase_command(web_code, used + cpus[web]))
        limits[web_code] -= cpus[web] * plan.web_instances
    workers = {
        (kind, market): limits[quotas[kind, market]] // cpus[kind]
        for kind in fleet.instance_types
        for market in plan.markets
        if (kind, market) in quotas
    }
    first = (fleet.instance_types[0], fleet.market)
    if first not in workers or not fleet.max_workers:
        return
    words = f"enough for {workers[first]} of {fleet.max_workers} workers (fleet.max_workers) of the type {first[0]}"
    if workers[first] >= fleet.max_workers:
        yield Finding(Level.OK, words)
        return
    level = Level.WARNING if max(workers.values()) > 0 else Level.STOP
    vcpus = fleet.max_workers * cpus[first[0]] + (cpus[web] * plan.web_instances if quotas[first] == web_code else 0)
    yield Finding(level, words, _increase_command(quotas[first], vcpus))


def quota_code(instance_type: str, market: str) -> str | None:
    """Return the code of the quota that counts the vCPUs of a type, or None if it is unknown."""
    letters = re.match("[a-z]*", instance_type)
    return FAMILIES.get(letters[0] if letters else "", {}).get(market)


def _increase_command(code: str, vcpus: int) -> str:
    command = "aws service-quotas request-service-quota-increase --service-code ec2"
    return f"Ask for more: `{command} --quota-code {code} --desired-value {vcpus}`"


def check_addresses(plan: StackPlan) -> Iterable[Finding]:
    """Find that a new stack without a load balancer would exceed the region's quota of Elastic IP addresses.

    https://docs.aws.amazon.com/vpc/latest/userguide/amazon-vpc-limits.html
    """
    if not plan.is_new or plan.parameters["CertificateArn"]:
        return
    used = len(plan.account.ec2.describe_addresses()["Addresses"])
    limit = quota_limit(plan.account, ADDRESSES)
    words = f"{used} of {limit} Elastic IP addresses of {plan.account.region_name} are in use"
    if used < limit:
        yield Finding(Level.OK, words)
    else:
        yield Finding(Level.STOP, words, f"Release one. {_increase_command(ADDRESSES, used + 1)}")


def quota_limit(account: AwsAccount, code: str) -> int:
    """Return the value of a quota of EC2 in the region."""
    return int(account.quotas.get_service_quota(ServiceCode="ec2", QuotaCode=code)["Quota"]["Value"])


def running_vcpus(account: AwsAccount, code: str | None) -> dict[str, int]:
    """Return the vCPUs of each of the account's running on-demand instances that a quota counts, by their ids.

    None counts the types without a known quota.
    """
    running: FilterTypeDef = {"Name": "instance-state-name", "Values": ["pending", "running"]}
    pages = account.ec2.get_paginator("describe_instances").paginate(Filters=[running])
    instances = [
        each
        for page in pages
        for group in page["Reservations"]
        for each in group["Instances"]
        if "InstanceLifecycle" not in each and quota_code(each["InstanceType"], "on_demand") == code
    ]
    unknown = sorted({each["InstanceType"] for each in instances if not each.get("CpuOptions")})
    types = describe_instance_types(account.ec2, unknown) if unknown else {}

    def vcpus(each: "InstanceTypeDef") -> int:
        cpu = each.get("CpuOptions")
        return cpu["CoreCount"] * cpu["ThreadsPerCore"] if cpu else types[each["InstanceType"]].vcpus

    return {each["InstanceId"]: vcpus(each) for each in instances}
