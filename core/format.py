"""Formatting of values, of the fleet's state and of its instances, for pages and commands."""

import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Self

from core.config import PriceSettings
from core.copying_model import CopyingModel
from core.fleet.models import (
    CapPeriod,
    FleetHalt,
    FleetInstance,
    FleetPause,
    FleetSnapshot,
    FleetSpending,
    LimitsOverride,
    WorkerLimits,
)
from services.clock import utc_now
from services.ec2 import ALIVE

STALE_SECONDS = 15.0
MIN_DOLLARS = 0.0001

SILENT_SECONDS = 30.0
"""Three heartbeats: a worker without a heartbeat for this long is marked."""

BOOT_SECONDS = 120.0
"""A worker before its first heartbeat boots; after this long it is marked, too."""

MIN_RATE = 0.05
"""Images/s below which the rate is not shown."""

_ENDING = frozenset({"draining", "ended"})
_STARTS = {"pending": "starts", "stopping": "stops", "stopped": "stopped"}


def plural(count: int, noun: str, many: str = "") -> str:
    """Return `1 image`, `2 images`, `1,000 images`; `many` is the plural if it is not the noun with an s."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {many or noun + 's'}"


def images_in_words(images: int, packs: int) -> str:
    """Return `1 image`, or `1,200 images in 31 packs` if some packs have several; 0 packs are not known."""
    words = plural(images, "image")
    return f"{words} in {plural(packs, 'pack')}" if 0 < packs < images else words


def workers_in_words(count: int) -> str:
    """Return `no workers`, `1 worker` or `5 workers`."""
    return f"{count or 'no'} worker{'' if count == 1 else 's'}"


def capitalised(words: str) -> str:
    """Return words that begin with a capital letter."""
    return words[:1].upper() + words[1:]


def joined(*words: str) -> str:
    """Return the parts that are not empty, separated by commas."""
    return ", ".join(word for word in words if word)


def percent(score: float, decimals: int = 0) -> str:
    """Return a score of 0 to 1 in percent, rounded down: what is unsure below 50% is not shown as 50%."""
    scale = 10**decimals
    return f"{int(score * 100 * scale + 1e-9) / scale:.{decimals}f}%"  # 0.29 * 100 is a little less than 29


def file_size(size: int) -> str:
    """Return bytes as `96 KB`, `1.2 MB` or `50 GB`, in powers of 1,024."""
    if size < 2**20:
        return f"{max(1, round(size / 2**10))} KB"
    number, unit = (size / 2**20, "MB") if size < 2**30 else (size / 2**30, "GB")
    return f"{number:.3g} {unit}" if number < 999.5 else f"{number:,.0f} {unit}"  # "1,020 MB" and not "1.02e+03 MB"


def duration(seconds: float) -> str:
    """Return seconds as `14 s`, `3 min`, `2 h` or `5 days`; less than a second is `1 s`."""
    for limit, length, unit in ((120, 1, "s"), (7_200, 60, "min"), (172_800, 3_600, "h")):
        if seconds < limit:
            return f"{max(1, round(seconds / length))} {unit}"
    return f"{seconds / 86_400:.0f} days"


def rate_words(rate: float) -> str:
    """Return images/s as `46`, or `4.2` below ten; the unit stands beside it."""
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.1f}"


def seconds_in_words(seconds: float) -> str:
    """Return seconds to two digits, as `0.03 s`, `1.5 s` or `42 s`."""
    return f"{seconds:.0f} s" if seconds >= 9.95 else f"{seconds:.2g} s"


def milliseconds(length: float) -> str:
    """Return milliseconds as `7 ms`, `820 ms` or `1.42 s`; less than half a millisecond is `<1 ms`."""
    if length >= 1_000:
        return f"{length / 1_000:.3g} s" if length < 100_000 else duration(length / 1_000)
    return f"{length:.0f} ms" if length >= 0.5 else "<1 ms"


def dollars(amount: float) -> str:
    """Return US dollars to the cent from a dollar on, and to two digits below; `<$0.0001` is the minimum."""
    if amount == 0:
        return "$0.00"
    if amount >= 1:
        return f"${amount:,.2f}"
    if amount < MIN_DOLLARS:
        return f"<${MIN_DOLLARS}"
    places = max(2, 1 - math.floor(math.log10(amount)))
    return f"${amount:.{places}f}"


def clock(moment: datetime) -> str:
    """Return the time of day in UTC, to the millisecond: `14:03:22.123`."""
    return moment.astimezone(UTC).strftime("%H:%M:%S.%f")[:-3]


def full_date(moment: datetime) -> str:
    """Return the date and the time of day in UTC: `2026-03-01 14:03:22 UTC`."""
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def short_date(moment: datetime) -> str:
    """Return the day and the minute in UTC: `1 Mar 14:03 UTC`."""
    return moment.astimezone(UTC).strftime("%-d %b %H:%M UTC")


def percent_text(share: float | None) -> str:
    """Return a share as a percentage for a form field; an empty string for None."""
    return "" if share is None else f"{100 * share:g}"


def ago(moment: datetime, now: datetime | None = None) -> str:
    """Return how long ago `moment` was, in words."""
    seconds = ((now or utc_now()) - moment).total_seconds()
    return "just now" if seconds < 1 else f"{duration(seconds)} ago"


def fleet_sentence(fleet: FleetSnapshot | None, silent_seconds: float = 0.0) -> str:
    """Return a sentence on the fleet's last decision, from the controller's report, which is `silent_seconds` old."""
    if fleet is None:
        return "The controller has not published a fleet status yet."
    if silent_seconds > STALE_SECONDS:
        return f"The controller has not reported for {duration(silent_seconds)}. Images wait safely until it is back."
    return f"{capitalised(fleet.reason)}."


_NEXT_WORKER: Mapping[FleetHalt | None, str] = {
    None: "The first upload starts one.",
    "paused": "Resume the fleet to start workers.",
    "cap reached": "Workers start at {end}, or once operators allow more dollars.",
    "workers fail": "One at a time starts until one answers.",
    "limit 0": "The limits allow none.",
    "launches fail": "The controller tries again.",
}


def next_worker_words(halt: FleetHalt | None, spending: FleetSpending | None = None) -> str:
    """Return a sentence on what starts a worker while none runs, given what keeps workers from starting."""
    return _NEXT_WORKER[halt].format(end="" if spending is None else resume_words(spending))


def waiting_words(waiting: int, halt: FleetHalt | None, spending: FleetSpending | None = None) -> str:
    """Return what follows for waiting images: `20 images start now.`, or what keeps workers from starting."""
    if not waiting:
        return "No images wait."
    images, is_one = plural(waiting, "image"), waiting == 1
    if halt is None:
        return f"{images} {'starts' if is_one else 'start'} now."
    return f"{images} {'waits' if is_one else 'wait'}. {next_worker_words(halt, spending)}"


def peak_words(peak_workers: int) -> str:
    """Return the most workers at once, and of what time: `2 workers since the fleet was last idle`."""
    return f"{plural(peak_workers, 'worker')} since the fleet was last idle"


def pause_words(pause: FleetPause) -> str:
    """Return a sentence on the pause of the fleet: its start, its reason and its effect."""
    why = f": {pause.reason}" if pause.reason else ""
    since = f"{pause.since:%d %B, %H:%M UTC}".removeprefix("0")
    return f"Paused by ops since {since}{why}. No new workers start; uploads still queue."


def resume_words(spending: FleetSpending) -> str:
    """Return when a spending cap that is reached ends: `00:00 UTC`, or `00:00 UTC on 1 December`; else empty."""
    return "" if spending.reached is None else _end_words(spending, spending.reached)


_BLOCKED: Mapping[FleetHalt, str] = {
    "paused": "paused by ops",
    "cap reached": "spending cap of {period} reached; goes on at {end}",
    "workers fail": "workers end without an answer",
    "limit 0": "the limits allow no workers",
    "launches fail": "no worker can be started",
}


def blocked_words(fleet: FleetSnapshot | None, silent_seconds: float = 0.0) -> str | None:
    """Return why no waiting image can be classified now, for the state `blocked: …`; None if nothing prevents it.

    The controller's report is `silent_seconds` old. Workers that run go on in a fleet that starts no further ones.
    """
    if fleet is None:
        return None
    if silent_seconds > STALE_SECONDS:
        return "the controller does not report"
    works = fleet.running + fleet.pending > 0
    if fleet.halt is None or (works and fleet.halt != "workers fail"):
        return None
    spending = fleet.spending
    period = "this month" if spending is not None and spending.reached == "month" else "today"
    return _BLOCKED[fleet.halt].format(period=period, end="" if spending is None else resume_words(spending))


def cap_words(spending: FleetSpending) -> str:
    """Return a sentence on the spending cap that is reached, for operators; empty if none is."""
    return "" if spending.reached is None else cap_reached_words(spending, spending.reached)


def cap_reached_words(spending: FleetSpending, period: CapPeriod) -> str:
    """Return the sentences on a spending cap that is reached, for operators."""
    cap = spending.cap(period)
    has_rest = cap is not None and spending.spent(period) < cap
    left = f", and one more worker costs at least {dollars(spending.launch)}" if has_rest else ""
    return (
        f"The {period}'s spending cap is reached: instances cost {_spent_words(spending, period)}{left}. "
        f"No worker starts until {_end_words(spending, period)}; uploads still queue."
    )


def _end_words(spending: FleetSpending, period: CapPeriod) -> str:
    at = spending.end_of(period)
    return f"{at:%H:%M} UTC" + (f" on {at:%d %B}".replace(" 0", " ") if period == "month" else "")


def spending_words(spending: FleetSpending) -> str:
    """Return the instances' cost beside the caps: `$2.10 of $5.00 today, $31.20 of $100.00 this month`."""
    periods: tuple[CapPeriod, ...] = ("day", "month")
    parts = [_spent_words(spending, each) for each in periods if spending.cap(each) is not None]
    if spending.committed:
        parts.append(f"at least {dollars(spending.committed)} more by starting workers")
    if words := allowance_words(spending):
        parts.append(words)
    return ", ".join(parts)


def allowance_words(spending: FleetSpending) -> str:
    """Return the dollars that operators allow today beside the caps, with time and reason; empty if none."""
    allowance = spending.allowance
    if allowance is None or allowance.day != spending.day:
        return ""
    why = f" ({allowance.reason})" if allowance.reason else ""
    return f"with {dollars(allowance.dollars)} allowed by ops at {allowance.since.astimezone(UTC):%H:%M} UTC{why}"


def _spent_words(spending: FleetSpending, period: CapPeriod) -> str:
    when = "today" if period == "day" else "this month"
    return f"{dollars(spending.spent(period))} of {dollars(spending.cap(period) or 0)} {when}"


def limits_words(limits: WorkerLimits, configured: WorkerLimits | None, now: datetime | None = None) -> str:
    """Return limits as `0..19`; an override with its time, its reason and the limits of config.yaml.

    It contains the day if that is another than that of `now`.
    """
    if not isinstance(limits, LimitsOverride):
        return range_words(limits)
    since = limits.since.astimezone(UTC)
    today = now is None or since.date() == now.astimezone(UTC).date()
    at = f"at {since:%H:%M UTC}" if today else "on " + f"{since:%d %B, %H:%M UTC}".removeprefix("0")
    why = f" ({limits.reason})" if limits.reason else ""
    file = f"; config.yaml says {range_words(configured)}" if configured else ""
    return f"{range_words(limits)}, set by ops {at}{why}{file}"


def range_words(limits: WorkerLimits) -> str:
    """Return limits as `0..19`."""
    return f"{limits.min_workers}..{limits.max_workers}"


FILTERS: Mapping[str, Callable[..., str]] = {
    "plural": plural,
    "percent": percent,
    "file_size": file_size,
    "rate_words": rate_words,
    "milliseconds": milliseconds,
    "dollars": dollars,
    "ago": ago,
    "full_date": full_date,
    "short_date": short_date,
    "clock": clock,
    "percent_text": percent_text,
    "peak_words": peak_words,
    "capitalised": capitalised,
}


class InstanceRow(CopyingModel):
    """A row of the table of instances, on the fleet page and in `fleetsight fleet status`.

    Attributes:
        state: state of the instance or of its worker.
        at_work: whether the worker is ready or busy.
        market: `Spot` for a Spot Instance, else empty.
        launched: moment of the launch as ISO 8601.
        age: time since the launch.
        images: images answered so far; `-` before the first heartbeat.
        speed: images per second; `-` while it answers none.
        heard: when its last heartbeat arrived, how long it may still boot, or why it does not work.
        cost: billed so far in US dollars; `-` if the prices are not known.
        marked: whether the controller believes so, or no heartbeat arrived for too long.
        can_drain: whether the worker can be drained and is not being drained yet.
    """

    instance_id: str
    state: str
    at_work: bool
    instance_type: str
    market: str
    zone: str
    launched: str
    age: str
    images: str
    speed: str
    heard: str
    cost: str
    marked: bool
    can_drain: bool

    @classmethod
    def from_instance(
        cls,
        instance: FleetInstance,
        now: datetime,
        prices: PriceSettings | None = None,
        boot_allowance_seconds: float = BOOT_SECONDS,
    ) -> Self:
        """Return the row of an instance at `now`, by the controller's clock."""
        age = max(0.0, (now - instance.launched_at).total_seconds())
        silence = None if instance.heard_at is None else max(0.0, (now - instance.heard_at).total_seconds())
        running = instance.state == "running"
        silent = running and (age > boot_allowance_seconds if silence is None else silence > SILENT_SECONDS)
        state = _STARTS.get(instance.state, instance.state)
        if running:
            state = "silent" if silent else "boots" if silence is None else instance.worker or "busy"
            if instance.draining and state in {"boots", "ready", "busy"}:
                state = "draining"  # before its next heartbeat
        if instance.marked is not None:
            state = "stuck"
        if silent:
            heard = f"none for {duration(age if silence is None else silence)}"
        elif instance.heard_at is not None:
            heard = ago(instance.heard_at, now)
        elif instance.state in ALIVE:
            heard = f"boots, {max(0.0, boot_allowance_seconds - age):.0f} s left"
        else:
            heard = "-"
        rate = instance.images_per_second or 0.0
        return cls.copied_from(
            instance,
            state=state,
            at_work=state in {"busy", "ready"},
            market="Spot" if instance.spot else "",
            launched=instance.launched_at.isoformat(),
            age=duration(age),
            images="-" if instance.images is None else f"{instance.images:,}",
            speed=f"{rate:.2g} /s" if rate >= MIN_RATE and state == "busy" else "-",
            heard=instance.marked or heard,
            cost=_billed_so_far(instance, now, prices),
            marked=silent or instance.marked is not None,
            can_drain=instance.state in ALIVE and not instance.draining and instance.worker not in _ENDING,
        )


def _billed_so_far(instance: FleetInstance, now: datetime, prices: PriceSettings | None) -> str:
    if prices is None:
        return "-"
    if instance.billed_since is None:
        return dollars(0)
    seconds = max(prices.minimum_billed_seconds, (now - instance.billed_since).total_seconds())
    return dollars(seconds * prices.worker_hour(instance.instance_type, spot=instance.spot) / 3_600)
