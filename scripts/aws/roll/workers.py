"""Old workers are asked to end, a few at a time, and new ones take their place."""

from collections.abc import Sequence

from scripts.aws.instances import Machine, named, worker_name
from scripts.aws.operation import Operation
from scripts.aws.roll.versions import Template
from services.ec2 import Fleet

STAYING = ("pending", "running", "stopping", "stopped")
"""Every state of a machine that has not ended for good."""
AT_ONCE = 4
"""A quarter of the old workers is asked at a time, so that three quarters go on."""
DRAIN_SECONDS = 600.0
"""How long those that are asked at a time may take: a worker needs less than a minute, its machine another."""


def old_workers(operation: Operation, template: Template, version: int) -> list[Machine]:
    """Return the instances of the fleet that were not launched from this version, and are still there."""
    workers = named(operation.account, worker_name(operation.prefix), states=STAYING)
    return [worker for worker in workers if worker.template != (template.template_id, str(version))]


def replace_workers(operation: Operation, template: Template, version: int, *, wait: bool) -> None:
    """Ask the fleet's old workers to end, and end those that have stopped, which would be started again as they are.

    The autoscaler launches others for those that are needed, and the images that a worker has in hand are answered
    first. Without `wait` all are asked at once, and there are fewer until others have booted.

    Raises:
        TimedOutError: some do not end.
    """
    old = old_workers(operation, template, version)
    share = -(-len(old) // AT_ONCE) if wait else len(old)
    while old:
        asked = _ask(operation, old, share)
        if not wait:
            return
        _wait_for_end(operation, template, version, asked)
        old = old_workers(operation, template, version)
        operation.say(f"{len(old)} workers of other versions are left")


def _ask(operation: Operation, old: Sequence[Machine], share: int) -> frozenset[str]:
    """Ask so many to end, those that are asked already among them, and return which."""
    fleet = Fleet(operation.account.ec2, worker_name(operation.prefix))
    if stopped := [worker.instance_id for worker in old if worker.state == "stopped"]:
        fleet.terminate(stopped)
        operation.done(f"ended {len(stopped)} stopped workers")
    alive = [worker for worker in old if worker.state != "stopped"]
    asked = sorted(alive, key=lambda worker: (not worker.draining, worker.instance_id))[:share]
    for worker in asked:
        _end_rather_than_stop(operation, worker)
    if new := [worker.instance_id for worker in asked if not worker.draining]:
        fleet.ask_to_drain(new)
        operation.done(f"asked {len(new)} workers to finish what they have and end: {', '.join(new)}")
    return frozenset(worker.instance_id for worker in asked)


def _end_rather_than_stop(operation: Operation, worker: Machine) -> None:
    """See to it that a worker's machine ends for good: the autoscaler would start a stopped one as it is."""
    ec2, instance = operation.account.ec2, worker.instance_id
    behavior = ec2.describe_instance_attribute(InstanceId=instance, Attribute="instanceInitiatedShutdownBehavior")
    if behavior["InstanceInitiatedShutdownBehavior"].get("Value") == "stop":
        ec2.modify_instance_attribute(InstanceId=instance, InstanceInitiatedShutdownBehavior={"Value": "terminate"})
        operation.done(f"{instance} is to end rather than stop")


def _wait_for_end(operation: Operation, template: Template, version: int, asked: frozenset[str]) -> None:
    operation.waiting.until(
        lambda: _are_gone(operation, template, version, asked),
        f"{', '.join(sorted(asked))} to finish and end; see to them, or end them, and run this again",
        seconds=DRAIN_SECONDS,
    )


def _are_gone(operation: Operation, template: Template, version: int, asked: frozenset[str]) -> bool:
    """Say whether all that were asked have ended or stopped."""
    there = old_workers(operation, template, version)
    return not any(worker.instance_id in asked and worker.state != "stopped" for worker in there)
