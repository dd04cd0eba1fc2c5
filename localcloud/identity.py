"""Who an instance is, and the credentials that its role gives it, as its metadata service must answer."""

import secrets
from datetime import UTC, datetime, timedelta
from typing import Any

from localcloud.access_keys import instance_key
from localcloud.records import Record

SESSION_SECONDS = 6 * 3600
DEFAULT_ROLE = "embedded-default"


def describe(record: Record) -> dict[str, Any]:
    """Return the identity of an instance as plain data."""
    from localcloud.instances import user_data_of

    instance = record.instance
    return {
        "id": instance.id,
        "generation": record.generation,
        "image_id": instance.image_id,
        "instance_type": instance.instance_type,
        "region": instance.region_name,
        "availability_zone": instance.availability_zone,
        "account_id": instance.owner_id,
        "private_ip": instance.private_ip,
        "architecture": instance.architecture,
        "launch_time": instance.launch_time.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "lifecycle": "spot" if instance.lifecycle == "spot" else "on-demand",
        "user_data": user_data_of(instance).decode("latin-1"),
        "tags": {tag["key"]: tag["value"] for tag in instance.get_tags()},
        "role": _role_arn(instance).rpartition("/")[2] or DEFAULT_ROLE,
        "spot_notice": record.notice,
    }


def role_credentials(instance: Any) -> dict[str, Any]:
    """Return credentials of the instance profile's role, from ``sts:AssumeRole`` of this cloud.

    An instance without a profile gets a key of the same shape that belongs to no role and may do everything.
    """
    role_arn = _role_arn(instance)
    if not role_arn:
        key = instance_key(instance.id)
        return _credentials(key.id, key.secret, secrets.token_urlsafe(60))
    from moto.sts.models import sts_backends

    backend = sts_backends[instance.owner_id]["aws"]
    role = backend.assume_role(
        region_name=instance.region_name,
        role_session_name=instance.id,
        role_arn=role_arn,
        policy="",
        duration=SESSION_SECONDS,
        external_id="",
    )
    return _credentials(role.access_key_id, role.secret_access_key, role.session_token)


def _role_arn(instance: Any) -> str:
    association = instance.ec2_backend.iam_instance_profile_associations.get(instance.id)
    roles = association.iam_instance_profile.roles if association else []
    return str(roles[0].arn) if roles else ""


def _credentials(access_key_id: str, secret_access_key: str, token: str) -> dict[str, Any]:
    now = datetime.now(UTC)
    return {
        "Code": "Success",
        "LastUpdated": _stamp(now),
        "Type": "AWS-HMAC",
        "AccessKeyId": access_key_id,
        "SecretAccessKey": secret_access_key,
        "Token": token,
        "Expiration": _stamp(now + timedelta(seconds=SESSION_SECONDS)),
    }


def _stamp(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
