"""Parameters of the parameter store, log groups, topics and alarms."""

from typing import Any

from services.embedded.stacks.kinds.absent import gone_is_good
from services.embedded.stacks.kinds.kind import Cloud, Made
from services.embedded.stacks.model import Resource


class StoredParameter:
    """``AWS::SSM::Parameter``, whose tags are a map."""

    fixed = frozenset({"Name"})
    moving: frozenset[str] = frozenset()

    def create(self, cloud: Cloud, resource: Resource) -> Made:
        """Store it."""
        wanted = resource.properties
        name = wanted.get("Name") or cloud.name(resource.logical_id)
        cloud.call(
            "ssm",
            "put_parameter",
            Name=name,
            Type=wanted["Type"],
            Value=wanted["Value"],
            Description=wanted.get("Description"),
            Tags=cloud.tag_list(wanted) or None,
        )
        return Made(name, {"Type": wanted["Type"], "Value": str(wanted["Value"])})

    def update(self, cloud: Cloud, resource: Resource, properties: dict[str, Any]) -> Made:
        """Store what it is now."""
        name, told = resource.physical_id, properties.get("Description")
        kind, value = properties["Type"], properties["Value"]
        cloud.call("ssm", "put_parameter", Name=name, Type=kind, Value=value, Description=told, Overwrite=True)
        return Made(name, {"Type": kind, "Value": str(value)})

    def delete(self, cloud: Cloud, resource: Resource) -> None:
        """Delete it."""
        with gone_is_good():
            cloud.call("ssm", "delete_parameter", Name=resource.physical_id)


class LogGroup:
    """``AWS::Logs::LogGroup``."""

    fixed = frozenset({"LogGroupName"})
    moving: frozenset[str] = frozenset()

    def create(self, cloud: Cloud, resource: Resource) -> Made:
        """Make it."""
        name = resource.properties.get("LogGroupName") or cloud.name(resource.logical_id)
        cloud.call("logs", "create_log_group", logGroupName=name, tags=cloud.all_tags(resource.properties) or None)
        self._keep(cloud, name, resource.properties)
        return Made(name, {"Arn": f"arn:aws:logs:{cloud.place.region}:{cloud.place.account}:log-group:{name}:*"})

    def update(self, cloud: Cloud, resource: Resource, properties: dict[str, Any]) -> Made:
        """Change how long it keeps what it is told."""
        self._keep(cloud, resource.physical_id, properties)
        return Made(resource.physical_id, resource.attributes)

    def delete(self, cloud: Cloud, resource: Resource) -> None:
        """Delete it with its streams."""
        with gone_is_good():
            cloud.call("logs", "delete_log_group", logGroupName=resource.physical_id)

    def _keep(self, cloud: Cloud, name: str, properties: dict[str, Any]) -> None:
        if days := properties.get("RetentionInDays"):
            cloud.call("logs", "put_retention_policy", logGroupName=name, retentionInDays=days)
        else:
            cloud.call("logs", "delete_retention_policy", logGroupName=name)


class Topic:
    """``AWS::SNS::Topic``."""

    fixed = frozenset({"TopicName"})
    moving: frozenset[str] = frozenset()

    def create(self, cloud: Cloud, resource: Resource) -> Made:
        """Make it."""
        name = resource.properties.get("TopicName") or cloud.name(resource.logical_id)
        arn = cloud.call("sns", "create_topic", Name=name, Tags=cloud.tag_list(resource.properties))["TopicArn"]
        return Made(arn, {"TopicArn": arn, "TopicName": name})

    def update(self, cloud: Cloud, resource: Resource, properties: dict[str, Any]) -> Made:
        """Change its tags."""
        if tags := cloud.tag_list(properties):
            cloud.call("sns", "tag_resource", ResourceArn=resource.physical_id, Tags=tags)
        return Made(resource.physical_id, resource.attributes)

    def delete(self, cloud: Cloud, resource: Resource) -> None:
        """Delete it."""
        with gone_is_good():
            cloud.call("sns", "delete_topic", TopicArn=resource.physical_id)


class Alarm:
    """``AWS::CloudWatch::Alarm``: it is there, and nothing measures what it watches."""

    fixed = frozenset({"AlarmName"})
    moving: frozenset[str] = frozenset()

    def create(self, cloud: Cloud, resource: Resource) -> Made:
        """Make it."""
        name = resource.properties.get("AlarmName") or cloud.name(resource.logical_id)
        self._put(cloud, name, resource.properties)
        return Made(name, {"Arn": f"arn:aws:cloudwatch:{cloud.place.region}:{cloud.place.account}:alarm:{name}"})

    def update(self, cloud: Cloud, resource: Resource, properties: dict[str, Any]) -> Made:
        """Make it what it is now."""
        self._put(cloud, resource.physical_id, properties)
        return Made(resource.physical_id, resource.attributes)

    def delete(self, cloud: Cloud, resource: Resource) -> None:
        """Delete it."""
        with gone_is_good():
            cloud.call("cloudwatch", "delete_alarms", AlarmNames=[resource.physical_id])

    def _put(self, cloud: Cloud, name: str, properties: dict[str, Any]) -> None:
        settings = {key: value for key, value in properties.items() if key != "Tags"}
        cloud.call(
            "cloudwatch", "put_metric_alarm", **{**settings, "AlarmName": name}, Tags=cloud.tag_list(properties)
        )
