"""EC2: list_amazonec2.html.

Calls on instances and their tags ask of each resource that they name, launches of all that they make and use
(`launches`); every other call asks of ``*``.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from moto.core.parse import PROTOCOL_PARSERS
from moto.core.utils import get_service_model
from moto.ec2.models import ec2_backends
from moto.ec2.utils import EC2_PREFIX_TO_RESOURCE

from localcloud.iam.calls import Call
from localcloud.iam.conditions import Context
from localcloud.iam.documents import Asked
from localcloud.iam.questions import launches

_ON_INSTANCES = frozenset(
    {"GetConsoleOutput", "RebootInstances", "StartInstances", "StopInstances", "TerminateInstances"}
)
_ON_TAGS = frozenset({"CreateTags", "DeleteTags"})
_KINDS = {**EC2_PREFIX_TO_RESOURCE, "sir": "spot-instances-request"}


def questions(call: Call) -> Iterable[Asked]:
    """Yield what a call asks for."""
    action, backend = f"ec2:{call.operation}", ec2_backends[call.account][call.region]
    region = {"ec2:region": (call.region,)}
    if call.operation == "RunInstances":
        return launches.questions(call, backend, _parameters(call))
    if call.operation in _ON_INSTANCES:
        parameters = _parameters(call)
        ids = parameters.get("InstanceIds") or [parameters.get("InstanceId", "")]
        return [Asked(action, _arn(call, each), {**region, **_resource(backend, each)}) for each in ids]
    if call.operation in _ON_TAGS:
        parameters = _parameters(call)
        tags = {**region, **launches.request_tags(parameters.get("Tags", []))}
        ids = parameters.get("Resources", [])
        return [Asked(action, _arn(call, each), {**tags, **_resource(backend, each)}) for each in ids]
    return [Asked(action, "*", region)]


def _parameters(call: Call) -> dict[str, Any]:
    """Return the parameters of a call as moto will read them."""
    operation = get_service_model("ec2").operation_model(call.operation)
    parsed: dict[str, Any] = PROTOCOL_PARSERS["ec2"](operation, map_type=dict).parse({"values": call.fields})
    return parsed


def _resource(backend: Any, resource_id: str) -> Context:
    """Return what conditions may ask about a resource that is there."""
    tags: Mapping[str, str] = backend.tags.get(resource_id, {})
    return {
        f"{prefix}:resourcetag/{key.lower()}": (str(value),)
        for key, value in tags.items()
        for prefix in ("aws", "ec2")
    }


def _arn(call: Call, resource_id: str) -> str:
    kind = _KINDS.get(resource_id.rpartition("-")[0])
    return call.arn("ec2", f"{kind}/{resource_id}", of_account=kind != "image") if kind else "*"
