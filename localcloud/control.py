"""``/_embedded/``: the control endpoint, for the hypervisor and for tests.

It is on loopback only, and needs the bearer token of the owner's key.

====== ====================================== ==========================================================
GET    /_embedded/health                       {"epoch"}: the server answers
GET    /_embedded/instances?since=N&wait=S     long poll for instances that are not terminated
GET    /_embedded/instances/ID                 the identity of an instance, for its metadata service
GET    /_embedded/instances/ID/credentials     the credentials of its role
POST   /_embedded/instances/ID/events          {"event": running | ended, "generation", "console", "failed"}
PUT    /_embedded/instances/ID/spot-notice     {"action", "seconds"}
GET    /_embedded/calls                        {"calls", "faults"}: calls so far, and those that met a fault
GET    /_embedded/switches                     the switches of `options.Switches`; PUT changes some
====== ====================================== ==========================================================
"""

import hmac
import json
import secrets
from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any

from werkzeug.wrappers import Request, Response

from localcloud.access_keys import instance_key, owner_key
from localcloud.dispatch import call_counter
from localcloud.ec2.fleet import Ec2Fleet, LaunchedInstance

MAX_POLL_SECONDS = 60.0


class ControlApplication:
    """WSGI application of the control endpoint over one fleet."""

    def __init__(self, fleet: Ec2Fleet) -> None:
        self._fleet = fleet

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Answer one request in JSON: 401 without the token, 404 for unknown paths and ids, 400 for invalid input."""
        expected, request, status = owner_key().control_authorization, Request(environ), 200
        result: dict[str, Any]
        try:
            if not hmac.compare_digest(environ.get("HTTP_AUTHORIZATION", "").encode(), expected.encode()):
                result, status = {"error": "the bearer token of this cloud is missing or wrong"}, 401
            else:
                result = self._answer(request, request.path.removeprefix("/_embedded/").split("/"))
        except (ValueError, KeyError) as error:
            result, status = {"error": f"{type(error).__name__}: {error}"}, 400
        except LookupError as error:
            result, status = {"error": str(error)}, 404
        return Response(json.dumps(result), status, content_type="application/json")(environ, start_response)

    def _answer(self, request: Request, parts: list[str]) -> dict[str, Any]:
        fleet, result = self._fleet, dict[str, Any]()
        match request.method, *parts:
            case "GET", "health":
                result = {"epoch": fleet.epoch}
            case "GET", "instances":
                since = request.args.get("since", -1, int) if request.args.get("epoch") == fleet.epoch else -1
                wait = min(request.args.get("wait", 0.0, float), MAX_POLL_SECONDS)
                revision, work = fleet.wait_for_work(since, wait)
                result = {"epoch": fleet.epoch, "revision": revision, "instances": [asdict(w) for w in work]}
            case "GET", "instances", instance_id:
                result = describe_identity(fleet.find(instance_id))
            case "GET", "instances", instance_id, "credentials":
                result = role_credentials(fleet.find(instance_id).instance)
            case "POST", "instances", instance_id, "events":
                self._report(instance_id, _body(request))
            case "PUT", "instances", instance_id, "spot-notice":
                body = _body(request)
                fleet.give_spot_notice(instance_id, body.get("action", "terminate"), float(body.get("seconds", 120)))
            case "GET", "calls":
                result = {"calls": call_counter.figures(), "faults": fleet.call_faults.figures()}
            case "GET", "switches":
                result = fleet.switches.model_dump()
            case "PUT", "switches":
                fleet.set_switches(fleet.switches.changed(_body(request)))
                result = fleet.switches.model_dump()
            case _:
                raise LookupError(f"there is no {request.method} {request.path}")
        return result

    def _report(self, instance_id: str, report: dict[str, Any]) -> None:
        event, generation, console = report["event"], int(report["generation"]), report.get("console")
        if event == "running":
            self._fleet.report_running(instance_id, generation, console)
        elif event == "ended":
            self._fleet.report_ended(instance_id, generation, failed=report.get("failed"), console=console)
        else:
            raise ValueError(f"event {event!r}: must be running or ended")


def _body(request: Request) -> dict[str, Any]:
    body = json.loads(request.get_data() or b"{}")
    if not isinstance(body, dict):
        raise ValueError("the body must be a JSON object")  # noqa: TRY004 - answered as 400
    return body


SESSION_SECONDS = 6 * 3600

DEFAULT_ROLE = "embedded-default"


def describe_identity(record: LaunchedInstance) -> dict[str, Any]:
    """Return the identity of an instance for its metadata service."""
    from localcloud.ec2.instances import user_data_of

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

    An instance without a profile gets a key of the same form that has no role and may do everything.
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
