"""User pools, their clients and groups."""

from typing import Any

from services.embedded.stacks.kinds.absent import gone_is_good
from services.embedded.stacks.kinds.kind import Cloud, Made
from services.embedded.stacks.model import Resource

_SERVICE = "cognito-idp"


class UserPool:
    """``AWS::Cognito::UserPool``."""

    fixed = frozenset({"UsernameAttributes", "AliasAttributes", "UsernameConfiguration"})
    moving: frozenset[str] = frozenset()

    def create(self, cloud: Cloud, resource: Resource) -> Made:
        """Make it."""
        name = resource.properties.get("UserPoolName") or cloud.name(resource.logical_id, 128)
        made = cloud.call(_SERVICE, "create_user_pool", PoolName=name, **_settings(cloud, resource.properties))
        pool = made["UserPool"]
        _set_second_factors(cloud, pool["Id"], resource.properties)
        provider = f"cognito-idp.{cloud.place.region}.amazonaws.com/{pool['Id']}"
        attributes = {"ProviderName": provider, "ProviderURL": f"https://{provider}", "UserPoolId": pool["Id"]}
        return Made(pool["Id"], {"Arn": pool["Arn"], **attributes})

    def update(self, cloud: Cloud, resource: Resource, properties: dict[str, Any]) -> Made:
        """Set it up anew: what is not said becomes the default."""
        changeable = {name: value for name, value in properties.items() if name not in self.fixed}
        cloud.call(_SERVICE, "update_user_pool", UserPoolId=resource.physical_id, **_settings(cloud, changeable))
        _set_second_factors(cloud, resource.physical_id, properties)
        return Made(resource.physical_id, resource.attributes)

    def delete(self, cloud: Cloud, resource: Resource) -> None:
        """Delete it with its accounts, unless it is protected."""
        with gone_is_good():
            cloud.call(_SERVICE, "delete_user_pool", UserPoolId=resource.physical_id)


def _settings(cloud: Cloud, properties: dict[str, Any]) -> dict[str, Any]:
    """Return what the API takes: it names tags otherwise, and the second factors in a call of their own."""
    tags = cloud.all_tags({"Tags": properties.get("UserPoolTags")})
    others = {"UserPoolName", "UserPoolTags", "EnabledMfas", "MfaConfiguration"}
    return {"UserPoolTags": tags} | {name: value for name, value in properties.items() if name not in others}


def _set_second_factors(cloud: Cloud, pool_id: str, properties: dict[str, Any]) -> None:
    enabled = "SOFTWARE_TOKEN_MFA" in properties.get("EnabledMfas", ())
    cloud.call(
        _SERVICE,
        "set_user_pool_mfa_config",
        UserPoolId=pool_id,
        SoftwareTokenMfaConfiguration={"Enabled": enabled},
        MfaConfiguration=properties.get("MfaConfiguration", "OFF"),
    )


class UserPoolClient:
    """``AWS::Cognito::UserPoolClient``."""

    fixed = frozenset({"UserPoolId", "GenerateSecret"})
    moving: frozenset[str] = frozenset()

    def create(self, cloud: Cloud, resource: Resource) -> Made:
        """Make it."""
        name = resource.properties.get("ClientName") or cloud.name(resource.logical_id, 128)
        wanted = {**resource.properties, "ClientName": name}
        made = cloud.call(_SERVICE, "create_user_pool_client", **wanted)["UserPoolClient"]
        return Made(made["ClientId"], {"ClientId": made["ClientId"], "Name": name})

    def update(self, cloud: Cloud, resource: Resource, properties: dict[str, Any]) -> Made:
        """Change what it may do."""
        changeable = {name: value for name, value in properties.items() if name != "GenerateSecret"}
        cloud.call(_SERVICE, "update_user_pool_client", ClientId=resource.physical_id, **changeable)
        return Made(resource.physical_id, resource.attributes)

    def delete(self, cloud: Cloud, resource: Resource) -> None:
        """Delete it: whoever is signed in by it has to sign in again."""
        pool = resource.properties["UserPoolId"]
        with gone_is_good():
            cloud.call(_SERVICE, "delete_user_pool_client", UserPoolId=pool, ClientId=resource.physical_id)


class UserPoolGroup:
    """``AWS::Cognito::UserPoolGroup``."""

    fixed = frozenset({"UserPoolId", "GroupName"})
    moving: frozenset[str] = frozenset()

    def create(self, cloud: Cloud, resource: Resource) -> Made:
        """Make it."""
        name = resource.properties.get("GroupName") or cloud.name(resource.logical_id, 128)
        cloud.call(_SERVICE, "create_group", **{**resource.properties, "GroupName": name})
        return Made(name)

    def update(self, cloud: Cloud, resource: Resource, properties: dict[str, Any]) -> Made:
        """Change its description."""
        cloud.call(_SERVICE, "update_group", **{**properties, "GroupName": resource.physical_id})
        return Made(resource.physical_id, resource.attributes)

    def delete(self, cloud: Cloud, resource: Resource) -> None:
        """Delete it; its members stay accounts of the pool."""
        pool = resource.properties["UserPoolId"]
        with gone_is_good():
            cloud.call(_SERVICE, "delete_group", UserPoolId=pool, GroupName=resource.physical_id)
