"""A distribution's configuration as templates have it, in the form that CloudFront's API wants.

Both name the same settings. The API says of a list how many it has, spells some names otherwise, such as
``ACMCertificateArn`` for ``AcmCertificateArn``, and has the cached methods inside the allowed ones.
"""

from typing import Any

RENAMED = {"ipv6enabled": "isipv6enabled", "origincustomheaders": "customheaders", "locations": "items"}
"""Settings that the API has under another name; letters small."""

DEFAULTS: dict[str, dict[str, Any]] = {
    "CustomOriginConfig": {"HTTPPort": 80, "HTTPSPort": 443},
    "DistributionConfig": {"Comment": ""},
}
"""What CloudFormation says where a template does not, and the API wants said; by the name of a structure."""


def distribution_config(properties: dict[str, Any], shape: Any, reference: str) -> dict[str, Any]:
    """Return a distribution's configuration for the API; settings that it does not know are left out.

    Args:
        properties: ``DistributionConfig`` of a template, evaluated.
        shape: of the API's ``DistributionConfig``, a ``botocore.model.Shape``.
        reference: the caller reference, which a distribution keeps all its life.
    """
    return {**_structure(properties, shape), "CallerReference": reference}


def _value(value: Any, shape: Any) -> Any:
    if shape.type_name == "structure":
        return _structure(value, shape) if isinstance(value, dict) else _counted(value, shape)
    if shape.type_name == "list" and isinstance(value, list):
        return [_value(one, shape.member) for one in value]
    return value


def _structure(properties: dict[str, Any], shape: Any) -> dict[str, Any]:
    members = {name.lower(): name for name in shape.members}
    found = dict(DEFAULTS.get(shape.name, {}))
    for given, value in properties.items():
        name = members.get(RENAMED.get(given.lower(), given.lower()))
        if name is not None:
            found[name] = _value(value, shape.members[name])
    if "Quantity" in members.values():
        items = found.get("Items", [])
        found["Quantity"] = len(items) if isinstance(items, list) else items
    allowed = found.get("AllowedMethods")
    if isinstance(allowed, dict) and "CachedMethods" in properties:
        cached = shape.members["AllowedMethods"].members["CachedMethods"]
        allowed["CachedMethods"] = _counted(properties["CachedMethods"], cached)
    return found


def _counted(value: Any, shape: Any) -> Any:
    """Return a list as the API has it; what is none is left for botocore to refuse."""
    if not (isinstance(value, list) and "Items" in shape.members):
        return value
    counted = {"Quantity": len(value), "Items": _value(value, shape.members["Items"])}
    return {"Enabled": bool(value), **counted} if "Enabled" in shape.members else counted
