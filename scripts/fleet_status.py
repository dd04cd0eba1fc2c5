"""The output of `fleetsight fleet` about the fleet, in 80 columns."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from core.fleet.models import Decision, FleetInstances, WorkerLimits
from core.format import (
    InstanceRow,
    cap_words,
    dollars,
    fleet_sentence,
    images_in_words,
    limits_words,
    next_worker_words,
    pause_words,
    peak_words,
    plural,
    spending_words,
)
from fleetsight_client.console import Console
from web_tier.features.fleet_control.bodies import FleetInstancesBody, FleetStatusBody

MAX_ENDED = 5
"""Ended instances that are shown, the newest."""


def show_fleet(fleet: Mapping[str, Any], instances: Mapping[str, Any], console: Console) -> None:
    """Show the fleet and its instances, given as the API's answers."""
    now = datetime.now(UTC)
    status = FleetStatusBody.model_validate(fleet)
    figures = Table.grid(padding=(0, 2))
    for name, words in status_rows(status, now):
        figures.add_row(Text(name, style="bold"), words)
    console.print(figures)
    first = next_worker_words(status.halt, status.spending)
    listed = FleetInstancesBody.model_validate(instances)
    console.print(instance_table(listed, status.at, first))
    for ended in listed.ended[:MAX_ENDED]:
        images = "" if ended.images is None else f", {plural(ended.images, 'image')}"
        console.print(f"ended {ended.ended_at:%H:%M:%S} UTC  {ended.instance_id}{images}")


def status_rows(fleet: FleetStatusBody, now: datetime) -> Iterator[tuple[str, str]]:
    """Yield the names and values of the fleet's status."""
    stopped = f", {fleet.stopped} stopped" if fleet.stopped else ""
    yield "workers", f"{fleet.running} running, {fleet.pending} starting{stopped}"
    yield "peak", peak_words(fleet.peak_workers)
    waiting = fleet.visible + fleet.delayed
    images = images_in_words(waiting + fleet.in_flight, fleet.packs)
    yield "queue", f"{images}, {fleet.in_flight:,} in flight, {plural(fleet.dead_letters, 'dead letter')}"
    in_force = fleet.limits_order or WorkerLimits(min_workers=fleet.min_workers, max_workers=fleet.max_workers)
    yield "limits", limits_words(in_force, fleet.configured, now)
    if fleet.policy:
        yield "policy", fleet.policy
    yield "now", fleet_sentence(fleet, fleet.silent_seconds)
    if fleet.problem:
        yield "problem", fleet.problem
    if fleet.failed_models:
        yield "models", f"no worker can load {', '.join(digest[:12] for digest in fleet.failed_models)}"
    if fleet.paused:
        yield "paused", pause_words(fleet.paused)
    if fleet.spending:
        yield "spending", f"instances {spending_words(fleet.spending)}"
        if words := cap_words(fleet.spending):
            yield "cap", words
    yield "instances", f"{dollars(fleet.cost)} since the first launch, for {fleet.billed_seconds:,.0f} s"
    if fleet.today and fleet.today_dollars is not None:
        images = plural(fleet.today.images, "image")
        yield "today", f"{dollars(fleet.today_dollars)} for instances and requests, {images} (UTC)"
    instances, requests = fleet.instances_dollars_per_1000_images, fleet.requests_dollars_per_1000_images
    if instances is not None and requests is not None:
        each = f"instances {dollars(instances)}, requests {dollars(requests)}"
        yield "1,000 images", f"{dollars(instances + requests)} ({each})"


def instance_table(instances: FleetInstances, now: datetime, first_worker: str) -> Table | Text:
    """Return the instances as a table, newest first, at `now` by the controller's clock.

    Without instances return a sentence, and `first_worker`: what starts one.
    """
    if not instances.instances:
        return Text(f"\nNo workers are running. {first_worker}")
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("instance", "state", "type", "age", "images", "heartbeat"):
        numeric = heading in {"age", "images"}
        table.add_column(heading, justify="right" if numeric else "left", no_wrap=heading == "instance")
    for each in instances.instances:
        row = InstanceRow.from_instance(each, now)
        kind = f"{row.instance_type} {row.market}".rstrip()
        images = row.images if row.speed == "-" else f"{row.images} ({row.speed})"
        table.add_row(row.instance_id, row.state, kind, row.age, images, row.heard)
    if unlisted := instances.total - len(instances.instances):
        table.add_row(Text(f"and {unlisted:,} older"))
    return table


def show_event(event: Mapping[str, Any], console: Console) -> None:
    """Show one decision with its time."""
    decision = Decision.model_validate(event)
    line = Table.grid(padding=(0, 2))
    line.add_row(Text(f"{decision.at.astimezone(UTC):%d %b %H:%M:%S}", style="dim"), decision.words)
    console.print(line)
