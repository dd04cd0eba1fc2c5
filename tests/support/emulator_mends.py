"""What ministack lacks of an account in which the AWS commands run: its process imports this module.

The stand-ins are compared with ministack as it is (`tests/integration/services`). Here each mend begins with its gap.
"""

import re
from collections.abc import Mapping
from typing import Any

from ministack.services import autoscaling, ec2, s3, ssm
from ministack.services.cloudformation import changesets, engine, provisioners

Form = dict[str, Any]
Reply = tuple[int, dict[str, str], bytes]

TYPES, ACTIONS = provisioners._RESOURCE_HANDLERS, ec2._ACTION_MAP


def _found(pattern: str, reply: Reply) -> list[str]:
    return re.findall(pattern, reply[2].decode())


def _pairs(tags: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"Key": key, "Value": value} for key, value in tags.items()]


# Its public addresses are of the internet; here they are of loopback, where a test can serve the page.
_random_ip = ec2._random_ip
ec2._random_ip = lambda prefix: _random_ip(prefix.replace("52.", "127."))

# Types that it lacks, and records, for which it wants a zone. They exist in their stack alone, but for the address.
for _type in (
    "Budgets::Budget", "Cognito::ManagedLoginBranding", "EC2::SecurityGroupIngress", "Route53::RecordSet",
):  # fmt: skip
    TYPES[f"AWS::{_type}"] = {
        "create": lambda name, _, stack: (f"{stack}-{name}", {}),
        "update": lambda physical_id, *_: (physical_id, {}),
        "delete": lambda *_: None,
    }


def _create_address(_name: str, properties: Form, _stack: str) -> tuple[str, Form]:
    allocation_id = _found(r"<allocationId>(.*?)<", ec2._allocate_address({}))[0]
    ec2._tags[allocation_id] = properties["Tags"]
    return ec2._addresses[allocation_id]["PublicIp"], {"AllocationId": allocation_id}


def _delete_address(address: str, _properties: Form) -> None:
    (allocation_id,) = [key for key, each in ec2._addresses.items() if each["PublicIp"] == address]
    ec2._release_address({"AllocationId": allocation_id})


TYPES["AWS::EC2::EIP"] = {"create": _create_address, "delete": _delete_address}

# It refuses alarms of expressions.
_create_alarm = TYPES["AWS::CloudWatch::Alarm"]["create"]
TYPES["AWS::CloudWatch::Alarm"]["create"] = lambda name, properties, stack: (
    (f"{stack}-{name}", {}) if "Metrics" in properties else _create_alarm(name, properties, stack)
)

# It forgets that a change set imports a bucket, and refuses its name.
provisioners.s3_bucket_name_conflict = lambda _: None

# Its change sets have resources although their condition is not met.
_resolve_props_for_diff = changesets._resolve_props_for_diff


def _resolve_included(template: Form, parameters: Form, *names: str) -> Form:
    resolved: Form = _resolve_props_for_diff(template, parameters, *names)
    is_met = engine._evaluate_conditions(template, parameters)
    resources = resolved.get("Resources", {}).items()
    return {
        **resolved,
        "Resources": {key: each for key, each in resources if is_met.get(each.get("Condition"), True)},
    }


changesets._resolve_props_for_diff = _resolve_included

# It ignores the tags of buckets.
_create_bucket = TYPES["AWS::S3::Bucket"]["create"]


def _create_tagged_bucket(name: str, properties: Form, stack: str) -> tuple[str, Form]:
    bucket, attributes = _create_bucket(name, properties, stack)
    s3._bucket_tags[bucket] = {each["Key"]: each["Value"] for each in properties["Tags"]}
    return bucket, attributes


TYPES["AWS::S3::Bucket"]["create"] = _create_tagged_bucket

# It finds all parameters by any tag.
_apply_filter = ssm._apply_filter


def _apply_tag_filter(parameter: Form, key: str, option: str, values: list[str]) -> bool:
    if not key.startswith("tag:"):
        return bool(_apply_filter(parameter, key, option, values))
    return ssm._tags.get(parameter["ARN"], {}).get(key[4:]) in values


ssm._apply_filter = _apply_tag_filter

# Its default VPC has no route to the internet.
_init_defaults = ec2._init_defaults


def _init_defaults_with_route() -> None:
    _init_defaults()
    route = {"DestinationCidrBlock": "0.0.0.0/0", "GatewayId": ec2._DEFAULT_IGW_ID, "State": "active"}
    ec2._route_tables[ec2._DEFAULT_RTB_ID]["Routes"].append({**route, "Origin": "CreateRoute"})


ec2._init_defaults = _init_defaults_with_route
ec2._default_initialized_scopes.clear()

# It has no images of Debian, no times of images, and types of one architecture with eight vCPUs and no GPU.
for _number, _name in (2, "amd64"), (3, "arm64"):
    _image = (f"ami-0deb1a1200000000{_number}", f"debian-12-{_name}-20250316-2053", "", "", "/dev/xvda")
    ec2._STUB_AMIS.append((*_image, "136693071363", "amazon"))
_stub_image_view = ec2._stub_image_view


def _view(image_id: str, name: str, *others: str) -> Form:
    view: Form = _stub_image_view(image_id, name, *others)
    return {**view, "Architecture": "arm64"} if "-arm64-" in name else view


ec2._stub_image_view = _view


def _edited(action: str, *edits: tuple[str, str]) -> None:
    """Replace patterns in the answers to an action."""
    answer = ACTIONS[action]

    def edited(form: Form) -> Reply:
        status, headers, body = answer(form)
        text = body.decode()
        for pattern, instead in edits:
            text = re.sub(pattern, instead, text, flags=re.DOTALL)
        return status, headers, text.encode()

    ACTIONS[action] = edited


_edited("DescribeImages", ("<imageState>", f"<creationDate>{ec2._now_ts()}</creationDate><imageState>"))
_GRAVITON = r"[cm]\dg\."
_GPUS = "<gpuInfo><gpus><item><manufacturer>NVIDIA</manufacturer><count>1</count></item></gpus></gpuInfo>"
_edited(
    "DescribeInstanceTypes",
    (r"(<instanceType>g\d\w*\.\w+</instanceType>)", rf"\1{_GPUS}"),
    ("<defaultVCpus>8<", "<defaultVCpus>2<"),
    (rf"(<instanceType>{_GRAVITON}((?!</item>\s*<item>\s*<instanceType>).)*?)x86_64", r"\1arm64"),
)
_edited("DescribeLaunchTemplateVersions", ("InvalidLaunchTemplateId", "InvalidLaunchTemplateName"))
for _action, _answer in {
    "GetConsoleOutput": "",
    "GetEbsDefaultKmsKeyId": "<kmsKeyId>alias/aws/ebs</kmsKeyId>",
    "DescribeVpcBlockPublicAccessOptions": "<vpcBlockPublicAccessOptions/>",
}.items():
    ACTIONS[_action] = lambda _, action=_action, answer=_answer: ec2._xml(200, f"{action}Response", answer)


# It launches no registered image without a container, and cannot make images of instances.
ec2._registered_image = lambda _: None


def _create_image(form: Form) -> Reply:
    instance = ec2._instances[ec2._p(form, "InstanceId")]
    architecture = "arm64" if re.match(_GRAVITON, instance["InstanceType"]) else "x86_64"
    reply: Reply = ec2._register_image({**form, "Architecture": architecture, "RootDeviceName": "/dev/xvda"})
    for image_id in _found(r"<imageId>(.*?)<", reply):
        disk = {"VolumeId": instance["BlockDeviceMappings"][0]["Ebs"]["VolumeId"]}
        (snapshot_id,) = _found(r"<snapshotId>(.*?)<", ec2._create_snapshot(disk))
        mapping = {"DeviceName": "/dev/xvda", "Ebs": {"SnapshotId": snapshot_id, "VolumeSize": "8"}}
        ec2._images[image_id]["BlockDeviceMappings"] = [mapping]
        ec2._parse_tag_specs(form, "image", image_id)
        ec2._parse_tag_specs(form, "snapshot", snapshot_id)
    return reply


ACTIONS["CreateImage"] = _create_image

# It does not say which instances are Spot Instances.
_instance_xml, _spot = ec2._instance_xml, set[str]()


def _instance_with_market(instance: Form) -> str:
    xml: str = _instance_xml(instance)
    market = "<instanceLifecycle>spot</instanceLifecycle>" if instance["InstanceId"] in _spot else ""
    return xml.replace("<instanceId>", f"{market}<instanceId>", 1)


ec2._instance_xml = _instance_with_market

# It launches MinCount instances, without the content of a launch template, and none for an Auto Scaling group.
_run_instances, _describe_instances = ACTIONS["RunInstances"], ACTIONS["DescribeInstances"]


def _launch(form: Form) -> Reply:
    if ec2._p(form, "DryRun") == "true":
        refusal: Reply = ec2._error("DryRunOperation", "Request would have succeeded, but DryRun flag is set.", 412)
        return refusal
    data, tags = _launch_template(form)
    given: Form = {key: data[key] for key in ("ImageId", "InstanceType") if key in data}
    reply: Reply = _run_instances({**given, **form, "MinCount": ec2._p(form, "MaxCount")})
    for instance_id in _found(_INSTANCE_ID, reply):
        ec2._tags[instance_id] = _pairs(tags) + ec2._tags.get(instance_id, [])
        if ec2._p(form, "InstanceMarketOptions.MarketType") == "spot":
            _spot.add(instance_id)
    return reply


_INSTANCE_ID = "<instanceId>(.*?)<"


def _launch_template(form: Form) -> tuple[Form, dict[str, str]]:
    """Return the content of the launch template that a launch names, and the tags of its instances."""
    named = {ec2._p(form, f"LaunchTemplate.LaunchTemplate{each}") for each in ("Id", "Name")}
    for template_id, template in ec2._launch_templates.items():
        if named & {template_id, template["LaunchTemplateName"]}:
            version = ec2._p(form, "LaunchTemplate.Version") or "$Default"
            number = str(template["DefaultVersionNumber"] if version == "$Default" else version)
            (data,) = [
                each["LaunchTemplateData"] for each in template["Versions"] if str(each["VersionNumber"]) == number
            ]
            tags = {"aws:ec2launchtemplate:id": template_id, "aws:ec2launchtemplate:version": number}
            own = [each["Tags"] for each in data["TagSpecifications"] if each["ResourceType"] == "instance"]
            tags |= {tag["Key"]: tag["Value"] for each in own for tag in each}
            return data, tags
    return Form(), {}


GROUP_TAG = "aws:autoscaling:groupName"


def _describe(form: Form) -> Reply:
    """Give each group as many instances as it wants, and end those of groups that are gone, before the answer."""
    members: dict[str, list[str]] = {name: [] for name in autoscaling._asgs}
    for instance_id, instance in ec2._instances.items():
        tags = {each["Key"]: each["Value"] for each in ec2._tags.get(instance_id, [])}
        if instance["State"]["Name"] == "running" and (name := tags.get(GROUP_TAG)):
            own = members.get(name, [])
            if name in members and len(own) < autoscaling._asgs[name]["DesiredCapacity"]:
                own.append(instance_id)
            else:
                ec2._terminate_instances({"InstanceId.1": instance_id})
    for name, own in members.items():
        group = autoscaling._asgs[name]
        named = {f"LaunchTemplate.{key}": str(each) for key, each in group["LaunchTemplate"].items()}
        if missing := group["DesiredCapacity"] - len(own):
            for instance_id in _found(_INSTANCE_ID, _launch({**named, "MaxCount": str(missing)})):
                ec2._tags[instance_id] += _pairs({GROUP_TAG: name})
    return _describe_instances(form)  # type: ignore[no-any-return]


ACTIONS |= {"RunInstances": _launch, "DescribeInstances": _describe}

# It finds all groups by any filter.
_describe_groups = autoscaling._describe_asgs


def _describe_tagged(form: Form) -> Reply:
    wanted = {
        "Key": f"{form.get('Filters.member.1.Name')}"[4:],
        "Value": form.get("Filters.member.1.Values.member.1"),
    }
    for number, (name, group) in enumerate(autoscaling._asgs.items() if wanted["Value"] else (), 1):
        is_found = any(wanted.items() <= each.items() for each in group["Tags"])
        form = {**form, f"AutoScalingGroupNames.member.{number}": name if is_found else "none"}
    return _describe_groups(form)  # type: ignore[no-any-return]


autoscaling._ACTION_MAP["DescribeAutoScalingGroups"] = _describe_tagged

# It does not tell the user data of an instance.
_describe_attribute = ACTIONS["DescribeInstanceAttribute"]


def _describe_user_data(form: Form) -> Reply:
    status, headers, body = _describe_attribute(form)
    value = ec2._instances.get(ec2._p(form, "InstanceId"), {}).get("UserData", "")
    told = f"<userData><value>{value}</value></userData>"
    return status, headers, body.replace(b"<userData/>", told.encode())


ACTIONS["DescribeInstanceAttribute"] = _describe_user_data
