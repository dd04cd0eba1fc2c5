"""Checks of the configured cloud: whether it answers, credentials, clock, buckets, queues and the job table."""

import json
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from scripts.doctor.checked_system import CheckedSystem
from scripts.doctor.checks import Diagnosis, ok, problem, unknown, warning

if TYPE_CHECKING:
    from core.config import Config

WARNING_SKEW_SECONDS: Final = 30.0
MAX_SKEW_SECONDS: Final = 300.0
"""AWS denies a request with a time stamp that is five minutes off.

https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv.html
"""

MIN_RETENTION_SECONDS: Final = 86_400
"""Retention below which a system that is down for a day loses messages."""

RESTART: Final = "Stop ./scripts/run.sh with Ctrl-C, and start it again."

EXPIRED: Final = frozenset({"ExpiredToken", "ExpiredTokenException"})
SKEWED: Final = frozenset({"RequestExpired", "RequestTimeTooSkewed"})
"""Error codes of expired credentials, and of requests with a time stamp that is too old or too new."""

SET_CLOCK: Final = "sudo timedatectl set-ntp true"

MISSING: Final = frozenset({"404", "NoSuchBucket", "ResourceNotFoundException", "TableNotFoundException"})
MISSING_QUEUES: Final = frozenset({"AWS.SimpleQueueService.NonExistentQueue", "QueueDoesNotExist"})
"""Error codes of resources that do not exist."""


def check_cloud(system: CheckedSystem) -> Iterable[Diagnosis]:
    """Check that the configured cloud answers."""
    from botocore.exceptions import BotoCoreError

    from scripts.doctor.machine import port_holder

    if not system.has_cloud:
        holder = port_holder(system.page_port)
        if holder is not None and holder.is_web_tier:
            yield problem(
                f"a web tier listens on {system.page_port}, and its local cloud at {system.started_endpoint} is gone",
                RESTART,
            )
        else:
            yield ok("the local cloud does not run; ./scripts/run.sh starts it")
        return
    place = system.endpoint or f"AWS in {system.config.aws.region}"
    try:
        _reply_headers(system)
    except BotoCoreError as error:
        remedy = "Check the network, and the proxy in HTTPS_PROXY." if system.is_on_aws else RESTART
        yield problem(f"{place} does not answer: {error}", remedy)
    else:
        yield ok(f"{place} answers")


def check_credentials(system: CheckedSystem) -> Iterable[Diagnosis]:
    """Check who the caller is, on AWS only: the local cloud has a key of its own."""
    from botocore.exceptions import ClientError, CredentialRetrievalError, NoCredentialsError, ProfileNotFound

    if not system.is_on_aws:
        yield ok("the local cloud has its own key, which ./scripts/run.sh draws at its start")
        return
    try:
        caller = system.clients.sts.get_caller_identity()
    except (NoCredentialsError, CredentialRetrievalError, ProfileNotFound) as error:
        yield problem(f"there are none: {error}", "aws configure, or choose a profile: export AWS_PROFILE=NAME")
    except ClientError as error:
        code = error.response["Error"]["Code"]
        if code in EXPIRED:
            yield problem(f"they have expired ({code})", "Sign in again, such as with aws sso login.")
        elif code in SKEWED:
            yield problem(f"AWS refuses the time stamp of the request ({code})", SET_CLOCK)
        else:
            yield problem(f"AWS refuses them: {error}", "aws configure, or choose a profile: export AWS_PROFILE=NAME")
    else:
        words = f"{caller['Arn']} of account {caller['Account']}"
        if caller["Arn"].endswith(":root"):
            yield warning(f"{words} may do everything", "Use a role: ./scripts/fleetsight aws check --policy")
        else:
            yield ok(words)


def check_clock(system: CheckedSystem, clock: Callable[[], float] = time.time) -> Iterable[Diagnosis]:
    """Compare this machine's clock with the `Date` of a reply."""
    from botocore.exceptions import BotoCoreError

    if not system.has_cloud:
        yield ok("this machine's clock is that of its local cloud")
        return
    started = clock()
    try:
        header = _reply_headers(system).get("date", "")
    except BotoCoreError as error:
        yield _not_called(error)
        return
    ended = clock()
    if not header:
        yield warning("not checked: the reply has no Date", "Compare it with another clock: date -u")
        return
    ahead = clock_ahead(parsedate_to_datetime(header), started, ended)
    words = f"{abs(ahead):.1f} s {'ahead of' if ahead > 0 else 'behind'} {system.endpoint or 'AWS'}"
    if abs(ahead) >= MAX_SKEW_SECONDS:
        yield problem(f"{words}: requests that are {MAX_SKEW_SECONDS:.0f} s off are refused", SET_CLOCK)
    elif abs(ahead) >= WARNING_SKEW_SECONDS:
        yield warning(f"{words}: requests that are {MAX_SKEW_SECONDS:.0f} s off are refused", SET_CLOCK)
    else:
        yield ok("as that of the cloud, to a second or two" if abs(ahead) < 2 else words)


def clock_ahead(date: datetime, started: float, ended: float) -> float:
    """Return how many seconds a clock is ahead of the `date` of a reply, which is in whole seconds, rounded down.

    `started` and `ended` are the clock's times of the request and the reply. 0 if the difference may be none.
    """
    earliest, latest = date.timestamp(), date.timestamp() + 1
    return max(0.0, started - latest) or min(0.0, ended - earliest)


def check_buckets(system: CheckedSystem) -> Iterable[Diagnosis]:
    """Check that both buckets exist, and that they delete what the system deletes, and nothing else."""
    config = system.config
    for name in (config.names.input_bucket, config.names.output_bucket):
        yield from _guarded(system, f"the bucket {name}", partial(_check_bucket, system, name))


def _check_bucket(system: CheckedSystem, name: str) -> Iterable[Diagnosis]:
    s3 = system.clients.s3
    s3.head_bucket(Bucket=name)
    found = False
    if s3.get_bucket_versioning(Bucket=name).get("Status") == "Enabled":
        found = True
        yield warning(
            f"{name} keeps every version: images and results that users delete stay, and are billed",
            _repair(
                system,
                f"aws s3api put-bucket-versioning --bucket {name} --versioning-configuration Status=Suspended",
            ),
        )
    for fault in lifecycle_faults(system.config, name, _lifecycle(system, name), is_on_aws=system.is_on_aws):
        found = True
        yield warning(f"{name}: {fault}", _creation(system))
    if not found:
        yield ok(f"{name} exists, and keeps no old versions")


def _lifecycle(system: CheckedSystem, name: str) -> list[Any]:
    """Return the enabled lifecycle rules of a bucket."""
    from botocore.exceptions import ClientError

    try:
        rules: list[Any] = system.clients.s3.get_bucket_lifecycle_configuration(Bucket=name)["Rules"]
    except ClientError as error:
        if error.response["Error"]["Code"] != "NoSuchLifecycleConfiguration":
            raise
        return []
    return [rule for rule in rules if rule["Status"] == "Enabled"]


def lifecycle_faults(config: "Config", name: str, rules: list[Any], *, is_on_aws: bool) -> list[str]:
    """Return what is wrong with the lifecycle rules of a bucket, as sentences.

    On AWS the stack creates rules that delete unfinished uploads, and, in the input bucket, images that no user keeps
    and the controller did not delete (the tag `kept=no`). The local cloud deletes nothing by rules.
    """
    faults = []
    is_input, days = name == config.names.input_bucket, config.retention.unkept_days
    for rule in (each for each in rules if "Expiration" in each):
        place = rule.get("Filter", {})
        tags = [place.get("Tag", {}), *place.get("And", {}).get("Tags", [])]
        after = rule["Expiration"].get("Days", 0)
        if not is_input or {"Key": "kept", "Value": "no"} not in tags:
            faults.append(f"the rule {rule.get('ID', '')!r} deletes objects after {after} days that users may keep")
        elif after <= days:
            faults.append(
                f"the rule {rule.get('ID', '')!r} deletes images after {after} days, and their jobs stay for {days:g}"
            )
    if is_on_aws and not any("AbortIncompleteMultipartUpload" in rule for rule in rules):
        faults.append("no rule deletes the parts of unfinished uploads, which are billed")
    if is_on_aws and is_input and days and not any("Expiration" in rule for rule in rules):
        faults.append("no rule deletes images that a crashed controller has left")
    return faults


def check_queues(system: CheckedSystem) -> Iterable[Diagnosis]:
    """Check that all queues exist with the configured settings."""
    names = system.config.names
    for name in (names.request_queue, names.response_queue, names.dead_letter_queue):
        yield from _guarded(system, f"the queue {name}", partial(_check_queue, system, name))


def _check_queue(system: CheckedSystem, name: str) -> Iterable[Diagnosis]:
    sqs, full_name = system.clients.sqs, system.config.queue_name(name)
    url = sqs.get_queue_url(QueueName=full_name)["QueueUrl"]
    found = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
    attributes = {str(key): value for key, value in found.items()}
    wanted, faults = queue_faults(system.config, name, attributes)
    if faults:
        command = f"aws sqs set-queue-attributes --queue-url {url} --attributes '{json.dumps(wanted)}'"
        yield problem(f"{full_name}: {'; '.join(faults)}", _repair(system, command))
        return
    if int(attributes.get("MessageRetentionPeriod", MIN_RETENTION_SECONDS)) < MIN_RETENTION_SECONDS:
        yield warning(
            f"{full_name} keeps messages for {attributes['MessageRetentionPeriod']} s only",
            _repair(
                system,
                f"aws sqs set-queue-attributes --queue-url {url} --attributes MessageRetentionPeriod=1209600",
            ),
        )
    waiting, in_flight = (
        attributes.get(key, "?") for key in ("ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible")
    )
    yield ok(f"{full_name} has its settings; about {waiting} messages wait, and {in_flight} are in flight")


def queue_faults(config: "Config", name: str, attributes: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Return the attributes that a queue must get, and what is wrong with those that it has, as phrases."""
    wanted, faults = dict[str, str](), []
    timeout, size = config.queues.visibility_timeout_seconds, config.queues.max_message_bytes
    if (found := attributes.get("VisibilityTimeout")) != str(timeout):
        wanted["VisibilityTimeout"] = str(timeout)
        faults.append(f"the visibility timeout is {found} s, and queues.visibility_timeout_seconds is {timeout}")
    if int(attributes.get("MaximumMessageSize", size)) < size:
        wanted["MaximumMessageSize"] = str(size)
        faults.append(
            f"messages have at most {attributes['MaximumMessageSize']} bytes, and queues.max_message_bytes is {size}"
        )
    policy = json.loads(attributes.get("RedrivePolicy") or "{}")
    if name != config.names.request_queue:
        if policy:
            wanted["RedrivePolicy"] = ""
            faults.append("it has a redrive policy, which takes messages away from the controller")
        return wanted, faults
    target = attributes["QueueArn"].rpartition(":")[0] + ":" + config.queue_name(config.names.dead_letter_queue)
    receives = config.queues.max_receive_count
    right = {"deadLetterTargetArn": target, "maxReceiveCount": receives}
    if policy.get("deadLetterTargetArn") != target:
        faults.append(
            f"its dead letters go to {policy.get('deadLetterTargetArn') or 'no queue'}, and the controller reads "
            f"{config.queue_name(config.names.dead_letter_queue)}"
        )
    elif int(policy.get("maxReceiveCount", 0)) != receives:
        faults.append(
            f"images fail after {policy.get('maxReceiveCount')} receives, and queues.max_receive_count is {receives}"
        )
    else:
        return wanted, faults
    return {**wanted, "RedrivePolicy": json.dumps(right)}, faults


def check_table(system: CheckedSystem) -> Iterable[Diagnosis]:
    """Check that the job table exists, with its keys, its time to live, and on AWS its point-in-time recovery."""
    name = system.config.names.job_table
    yield from _guarded(system, f"the table {name}", partial(_check_table, system, name))


def _check_table(system: CheckedSystem, name: str) -> Iterable[Diagnosis]:
    from services.table import EXPIRES_AT

    dynamodb = system.clients.dynamodb
    table = dynamodb.describe_table(TableName=name)["Table"]
    keys = {each["KeyType"]: each["AttributeName"] for each in table["KeySchema"]}
    if keys != {"HASH": "pk", "RANGE": "sk"}:
        yield problem(f"{name} has the keys {', '.join(keys.values())}, not pk and sk", "Set names.job_table.")
        return
    if table["TableStatus"] != "ACTIVE":
        yield warning(f"{name} is {table['TableStatus']}", "Wait until it is ACTIVE.")
        return
    found = False
    expiry = dynamodb.describe_time_to_live(TableName=name)["TimeToLiveDescription"]
    if expiry.get("TimeToLiveStatus") not in {"ENABLED", "ENABLING"} or expiry.get("AttributeName") != EXPIRES_AT:
        found = True
        setting = f"Enabled=true,AttributeName={EXPIRES_AT}"
        yield warning(
            f"{name} has no time to live on {EXPIRES_AT}: sessions and cached labels are never deleted",
            _repair(
                system,
                f"aws dynamodb update-time-to-live --table-name {name} --time-to-live-specification {setting}",
            ),
        )
    if system.is_on_aws:
        backups = dynamodb.describe_continuous_backups(TableName=name)["ContinuousBackupsDescription"]
        recovery = backups.get("PointInTimeRecoveryDescription", {})
        if recovery.get("PointInTimeRecoveryStatus") != "ENABLED":
            found = True
            setting = "PointInTimeRecoveryEnabled=true"
            yield warning(
                f"{name} has no point-in-time recovery: what is deleted or overwritten by mistake is lost",
                _repair(
                    system,
                    f"aws dynamodb update-continuous-backups --table-name {name} "
                    f"--point-in-time-recovery-specification {setting}",
                ),
            )
    if not found:
        yield ok(f"{name} is active, with its keys and time to live")


def _guarded(system: CheckedSystem, what: str, check: Callable[[], Iterable[Diagnosis]]) -> Iterable[Diagnosis]:
    """Return the results of the check of a resource, or why it could not be made: one resource hides no other."""
    from botocore.exceptions import BotoCoreError, ClientError

    found: list[Diagnosis] = []
    if not system.has_cloud:
        return [ok(f"{what} is made when the local cloud starts")]
    try:
        found += check()
    except ClientError as error:
        code = error.response["Error"]["Code"]
        if code in MISSING | MISSING_QUEUES:
            found.append(problem(f"{what} does not exist", _creation(system)))
        elif code == "403" or "AccessDenied" in code:
            remedy = "Use credentials that may read it, or check the names in the configuration."
            found.append(warning(f"not checked: {what} is not yours to read ({error})", remedy))
        else:
            found.append(unknown(error))
    except BotoCoreError as error:
        found.append(_not_called(error))
    return found


def _not_called(error: Exception) -> Diagnosis:
    """Return the diagnosis where the cloud cannot be called at all, which other checks report."""
    return warning(f"not checked: {error}", "Repair first what the checks `cloud` and `credentials` name.")


def _repair(system: CheckedSystem, command: str) -> str:
    """Return how a setting is repaired: by AWS's command, or by a new start of the local cloud."""
    if system.is_local:
        return RESTART
    url = "" if system.endpoint is None else f" --endpoint-url {system.endpoint}"
    return f"{command} --region {system.config.aws.region}{url}"


def _creation(system: CheckedSystem) -> str:
    """Return how a missing resource is created."""
    if not system.is_on_aws:
        return RESTART
    prefix = "" if system.prefix is None else f" --prefix {system.prefix}"
    return f"./scripts/fleetsight up --region {system.config.aws.region}{prefix}"


def _reply_headers(system: CheckedSystem) -> Mapping[str, str]:
    """Return the headers of the cloud's reply to an unsigned request, which it refuses: it needs no credentials.

    Raises:
        botocore.exceptions.BotoCoreError: there is no reply.
    """
    from botocore.exceptions import ClientError

    reply: Any
    try:
        reply = system.unsigned_sts.get_caller_identity()
    except ClientError as error:
        reply = error.response
    headers: Mapping[str, str] = reply["ResponseMetadata"]["HTTPHeaders"]
    return headers
