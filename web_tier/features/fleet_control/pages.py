"""The fleet page: figures, instances, decisions and cost of the fleet, and its controls.

Operators pause and resume the fleet, set the limits of the number of workers, and drain instances.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, timedelta
from typing import Any, Self

from flask import redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from core.config import MAX_CAP_DOLLARS, MAX_WORKERS, Config, PriceSettings
from core.cost import ThousandCost, day_dollars
from core.fleet.models import Decision, EndedInstance, FleetDay, FleetSnapshot, FleetSpending, WorkerLimits
from core.fleet.store import FleetState
from core.format import (
    InstanceRow,
    allowance_words,
    cap_words,
    dollars,
    fleet_sentence,
    limits_words,
    next_worker_words,
    pause_words,
    peak_words,
    plural,
    rate_words,
    seconds_in_words,
    spending_words,
)
from core.jobs.dead_letters import DeadLetterPage
from core.model_catalog import ModelCatalog
from services.clock import utc_now
from services.ec2 import ALIVE
from web_tier.auth.permissions import Right
from web_tier.features.fleet_control.actions import allow_fleet_dollars, pause_fleet, set_fleet_limits
from web_tier.features.fleet_control.chart import CHIPS, FIRST_WINDOW, WINDOWS, fleet_chart
from web_tier.features.fleet_control.console import console_lines
from web_tier.http.backend import current_backend, render_with_fleet
from web_tier.http.bodies import ApiBody
from web_tier.http.parameters import clean_reason
from web_tier.http.routes import Routes

fleet_pages = Routes("fleet", right=Right.OPERATE)


MAX_DECISIONS_SHOWN = 12

MAX_COUNTED_LETTERS = 100
"""Dead letters that the page counts; each costs three reads of the job table."""

WITHDRAWN_SHOWN = timedelta(days=1)
"""How long a model that was rolled back is shown with the button that moves its jobs."""

MAX_SHOWN_CHARACTERS = 10
"""Characters of an invalid field that the form shows again."""


class DecisionRow(ApiBody):
    """A decision: its moment as ISO 8601, its time of the day (UTC), and its text; `lead` is what was done."""

    at: str
    time: str
    lead: str
    words: str

    @classmethod
    def from_decision(cls, decision: Decision) -> Self:
        """Return the row of a decision."""
        words = f"{decision.words[:1].upper()}{decision.words[1:]}"
        found = _LEAD.match(words)
        lead = found[0] if found else ""
        time = decision.at.strftime("%H:%M:%S")
        return cls(at=decision.at.isoformat(), time=time, lead=lead, words=words.removeprefix(lead))


class EndedRow(ApiBody):
    """An instance that has ended, and what it has done as a text: `at 12:03:22, 45 images`."""

    instance_id: str
    words: str

    @classmethod
    def from_instance(cls, instance: EndedInstance) -> Self:
        """Return the row of an instance."""
        images = "" if instance.images is None else f", {plural(instance.images, 'image')}"
        at = instance.ended_at.astimezone(UTC)
        return cls(instance_id=instance.instance_id, words=f"at {at:%H:%M:%S}{images}")


_LEAD = re.compile(
    r"(Starting|Draining)( at most)? [\d,]+ (idle )?workers?( a minute| every \d+ s)?"
    r"|Paused( by ops)?|Idle|Limits [\d.]+"
    r"|The (day|month)'s spending cap is reached"
)
"""What a decision does, at the beginning of its text."""


class FleetBody(ApiBody):
    """The fleet as its page shows it; figures count instances and messages.

    Attributes:
        workers: running and pending ones; `workers_of` says how many of them boot or drain.
        idle_end: when workers without images end, and how many of them stay.
        waiting, in_flight, dead_letters: messages of the request queue and of its dead-letter queue.
        min_workers, max_workers: the limits in force.
        peak: most workers at once, and of what time, as a text.
        rate: answers of all workers, in images/s, as a text without the unit.
        today, today_of: cost of instances and requests since midnight UTC, and its images, as texts.
        month: the same cost since the first of the month.
        billed, cost: instance-seconds since the first launch, and their cost in US dollars, as texts.
        per_thousand: cost of 1,000 images as a text; None before the first answer of a worker.
        per_thousand_of: the parts of that cost.
        sentence: what happens at the moment, and why; `is_latest` if the newest decision says the same.
        next_worker: what starts a worker while none runs.
        problem: what prevents a launch, if anything does.
        failed_instance: while workers end without an answer, the last one that did; None if it is not listed.
        paused: since when and why the fleet is paused; None if it is not.
        limits_set: limits that operators have set, since when and why; None if those of config.yaml hold.
        failed_model: that workers cannot load a model, or that one was rolled back lately and its unfinished jobs
            were not moved; None if neither.
        can_roll_back: whether new jobs get the model that cannot be loaded, and got another one before.
        movable_to: the model to which the jobs of the one that was rolled back can be moved; None if they were.
        spending: cost of the instances beside the spending caps; None if no cap is configured.
        capped: that a spending cap is reached, and until when; None if none is.
        instances: newest first; `unlisted` is a text with the number of older ones, if there are any.
        ended: those that ended in the last hour, newest first, by id, with the time of the day (UTC) and images.
        decisions: the last ones, newest first.
    """

    workers: int = 0
    workers_of: str = "workers"
    idle_end: str = ""
    waiting: int = 0
    in_flight: int = 0
    dead_letters: int = 0
    min_workers: int = 0
    max_workers: int = 0
    peak: str = peak_words(0)
    rate: str = "0"
    today: str = dollars(0)
    today_of: str = "today"
    month: str = dollars(0)
    billed: str = "0 s"
    cost: str = dollars(0)
    per_thousand: str | None = None
    per_thousand_of: str = ""
    sentence: str
    next_worker: str
    is_latest: bool = False
    problem: str | None = None
    failed_instance: str | None = None
    paused: str | None = None
    limits_set: str | None = None
    failed_model: str | None = None
    can_roll_back: bool = False
    movable_to: str | None = None
    spending: str | None = None
    capped: str | None = None
    instances: tuple[InstanceRow, ...] = ()
    unlisted: str | None = None
    ended: tuple[EndedRow, ...] = ()
    decisions: tuple[DecisionRow, ...] = ()

    @classmethod
    def from_state(
        cls,
        state: FleetState,
        config: Config,
        days: Sequence[FleetDay],
        catalog: ModelCatalog | None,
        *,
        silent_seconds: float,
    ) -> Self:
        """Return the body of the controller's last report, which is `silent_seconds` old; `days` are over."""
        now, listed = utc_now(), state.instances
        seen_at = now if state.snapshot is None else state.snapshot.at
        older = listed.total - len(listed.instances)
        limits = state.limits_in_force(WorkerLimits.configured(config.fleet))
        configured = None if state.snapshot is None else state.snapshot.configured
        sentence = fleet_sentence(state.snapshot, silent_seconds)
        decisions = tuple(DecisionRow.from_decision(each) for each in state.decisions.decisions[:MAX_DECISIONS_SHOWN])
        allowance, spending = config.fleet.boot_allowance_seconds, state.spending
        digest = next(iter(state.snapshot.failed_models if state.snapshot else ()), "")
        failed = catalog.find(digest) if catalog else None
        failed_model = digest and (
            f"Workers cannot load the model {failed.name if failed else digest[:12]}: its images wait or fail."
        )
        above = f" above {limits.min_workers:,}" if limits.min_workers else ""
        movable_to, withdrawn = None, catalog.withdrawn if catalog else None
        is_recent = withdrawn is not None and not withdrawn.moved_at and now - withdrawn.at < WITHDRAWN_SHOWN
        queued = state.snapshot and state.snapshot.visible + state.snapshot.delayed + state.snapshot.in_flight
        # Operators who rolled back a model themselves need no alarm once no image waits.
        may_matter = withdrawn is not None and bool(digest or withdrawn.reason or queued)
        if catalog and withdrawn and is_recent and may_matter and digest in {"", withdrawn.digest}:
            movable_to = catalog.default_version.name
            moves = "Its unfinished jobs keep it until you move them. Those with only some labels cannot be moved."
            failed_model = f"{withdrawn.words(movable_to)} {moves}"
        return cls.copied_from(
            state.snapshot,
            **({} if state.snapshot is None else _figures(state.snapshot, state, days, config.prices)),
            min_workers=limits.min_workers,
            max_workers=limits.max_workers,
            idle_end=f"idle ones{above} end after {seconds_in_words(config.worker.idle_seconds)}",
            limits_set=state.limits and f"Limits {limits_words(limits, configured, now)}.",
            sentence=sentence,
            problem=state.problem,
            failed_instance=_failed_instance(state),
            next_worker=next_worker_words(state.halt(WorkerLimits.configured(config.fleet)), spending),
            failed_model=failed_model or None,
            movable_to=movable_to,
            can_roll_back=catalog is not None and catalog.would_roll_back(digest),
            spending=spending and spending_words(spending),
            capped=(spending and cap_words(spending)) or None,
            is_latest=any(f"{each.lead}{each.words}." == sentence for each in decisions[:1]),
            paused=None if state.pause is None else pause_words(state.pause),
            instances=tuple(
                InstanceRow.from_instance(each, seen_at, config.prices, allowance) for each in listed.instances
            ),
            unlisted=f"and {older:,} older" if older > 0 else None,
            ended=tuple(map(EndedRow.from_instance, state.ended_lately(now))),
            decisions=decisions,
        )


def _failed_instance(state: FleetState) -> str | None:
    if state.snapshot is None or state.snapshot.circuit.is_closed:
        return None
    return next((each.instance_id for each in state.ended_lately(utc_now()) if not each.images), None)


def _figures(
    fleet: FleetSnapshot, state: FleetState, days: Sequence[FleetDay], prices: PriceSettings
) -> dict[str, Any]:
    workers = fleet.running + fleet.pending
    draining = sum(each.draining and each.state in ALIVE for each in state.instances.instances)
    parts = [f"{count:,} {word}" for count, word in ((fleet.pending, "pending"), (draining, "draining")) if count]
    noun = "worker" if workers == 1 else "workers"
    today = fleet.today or FleetDay(day=fleet.at.astimezone(UTC).date())
    figures: dict[str, Any] = {
        "workers": workers,
        "workers_of": f"{noun} ({', '.join(parts)})" if parts else noun,
        "rate": rate_words(fleet.images_per_second) if fleet.images_per_second else "0",
        "today": dollars(day_dollars(today, prices)),
        "today_of": f"today, {plural(today.images, 'image')} classified",
        "month": dollars(month_dollars(today, days, prices)),
        "peak": peak_words(fleet.peak_workers),
        "waiting": fleet.visible + fleet.delayed,
        "billed": f"{fleet.billed_seconds:,.0f} s",
        "cost": dollars(fleet.cost),
    }
    if (cost := ThousandCost.from_snapshot(fleet, prices)) is not None:
        instances, requests = dollars(cost.instances_dollars), dollars(cost.requests_dollars)
        figures["per_thousand"] = dollars(cost.dollars)
        figures["per_thousand_of"] = f"for 1,000 images: instances {instances}, requests {requests}"
    return figures


def month_dollars(today: FleetDay, before: Sequence[FleetDay], prices: PriceSettings) -> float:
    """Return the cost of the current month (UTC): of `today`, and of the days `before` in the same month."""
    first = today.day.replace(day=1)
    days = [today, *(each for each in before if first <= each.day < today.day)]
    return sum(day_dollars(each, prices) for each in days)


@fleet_pages.get("/fleet")
def fleet_page() -> str:
    """Show the fleet and its history."""
    return _fleet_page(current_backend().dead_letters.page(limit=MAX_COUNTED_LETTERS))


@fleet_pages.get("/fleet/live", is_automatic=True)
def fleet_live() -> str:
    """Return the page for one that is open, without the number of dead letters; `static/fleet/main.js` shows it."""
    return _fleet_page(None)


def _fleet_page(dead_letters: DeadLetterPage | None) -> str:
    backend = current_backend()
    store = backend.fleet
    state = store.state()
    silent_seconds, catalog = backend.reports.silent_seconds(state.snapshot), backend.served.recent_catalog()
    window = WINDOWS.get(request.args.get("span", FIRST_WINDOW), WINDOWS[FIRST_WINDOW])
    return render_template(
        "fleet.html",
        body=FleetBody.from_state(state, backend.config, store.days(), catalog, silent_seconds=silent_seconds),
        chart=fleet_chart(store, state.snapshot, window),
        chips=CHIPS,
        dead_letters=dead_letters,
        fleet=state.snapshot,
    )


@dataclass(frozen=True, slots=True)
class LimitsForm:
    """The fields of the form that sets limits, and the error message if they are not valid."""

    min_workers: str
    max_workers: str
    reason: str = ""
    fault: str | None = None

    @classmethod
    def from_limits(cls, limits: WorkerLimits) -> Self:
        """Return the form that shows `limits`."""
        return cls(str(limits.min_workers), str(limits.max_workers))

    @classmethod
    def of_fields(cls, fields: Mapping[str, str]) -> Self:
        """Return the form that a browser sent, validated."""
        low, high = (fields.get(name, "").strip()[:MAX_SHOWN_CHARACTERS] for name in ("min_workers", "max_workers"))
        invalid = [
            name
            for name, text in (("minimum", low), ("maximum", high))
            if not (text.isascii() and text.isdigit() and int(text) <= MAX_WORKERS)
        ]
        fault = None
        if invalid:
            fault = f"The {invalid[0]} must be a whole number from 0 to {MAX_WORKERS:,}."
        elif int(low) > int(high):
            fault = f"The minimum ({low}) must be at most the maximum ({high})."
        return cls(low, high, clean_reason(fields.get("reason", "")), fault)


@fleet_pages.get("/fleet/pause")
def pause_page() -> str:
    """Show the form that pauses the fleet, with its reason."""
    return render_with_fleet("pause.html")


@fleet_pages.post("/fleet/pause", audit="fleet paused")
def pause() -> ResponseReturnValue:
    """Pause the fleet and redirect to its page."""
    pause_fleet(request.form.get("reason", ""))
    return _redirect_to_fleet()


@fleet_pages.get("/fleet/limits")
def limits_page() -> str:
    """Show the form that sets limits."""
    state = current_backend().fleet.state()
    return _limits_page(state, LimitsForm.from_limits(state.limits_in_force(_configured())))


@fleet_pages.post("/fleet/limits", audit="limits set")
def set_limits() -> ResponseReturnValue:
    """Set limits and redirect to the fleet's page; show the form again if a field is not valid."""
    form = LimitsForm.of_fields(request.form)
    if form.fault is not None:
        return _limits_page(current_backend().fleet.state(), form), 422
    set_fleet_limits(int(form.min_workers), int(form.max_workers), form.reason)
    return _redirect_to_fleet()


@dataclass(frozen=True, slots=True)
class AllowanceForm:
    """The fields of the form that allows more dollars today, and the error message if they are not valid."""

    dollars: str = ""
    reason: str = ""
    fault: str | None = None

    @classmethod
    def of_fields(cls, fields: Mapping[str, str]) -> Self:
        """Return the form that a browser sent, validated."""
        text = fields.get("dollars", "").strip()[:MAX_SHOWN_CHARACTERS]
        reason = clean_reason(fields.get("reason", ""))
        is_amount = re.fullmatch(r"\d{1,7}(\.\d{1,2})?", text, re.ASCII) is not None
        if is_amount and 0 < float(text) <= MAX_CAP_DOLLARS:
            return cls(text, reason)
        return cls(text, reason, f"Give dollars from 0.01 to {MAX_CAP_DOLLARS:,}, such as 5 or 2.50.")


@fleet_pages.get("/fleet/allowance")
def allowance_page() -> str:
    """Show the form that allows more dollars today."""
    return _allowance_page(current_backend().fleet.state(), AllowanceForm())


@fleet_pages.post("/fleet/allowance", audit="dollars allowed")
def set_allowance() -> ResponseReturnValue:
    """Raise the spending caps today and redirect to the fleet's page; show the form again if a field is not valid."""
    form = AllowanceForm.of_fields(request.form)
    if form.fault is not None:
        return _allowance_page(current_backend().fleet.state(), form), 422
    allow_fleet_dollars(float(form.dollars), form.reason)
    return _redirect_to_fleet()


def _allowance_page(state: FleetState, form: AllowanceForm) -> str:
    spending: FleetSpending | None = state.spending
    return render_template(
        "allowance.html",
        form=form,
        words=spending and spending_words(spending),
        is_set=spending is not None and bool(allowance_words(spending)),
        fleet=state.snapshot,
    )


@fleet_pages.get("/fleet/instances/<instance_id>/console")
def console_page(instance_id: str) -> str:
    """Show the last lines of an instance's console."""
    return render_with_fleet("console.html", instance_id=instance_id, lines=console_lines(instance_id))


@fleet_pages.get("/fleet/instances/<instance_id>/drain")
def confirm_drain(instance_id: str) -> str:
    """Show the form that confirms the drain of an instance."""
    backend = current_backend()
    instance = backend.fleet.drainable_instance(instance_id)
    return render_with_fleet("drain.html", instance_id=instance_id, instance=instance)


def _redirect_to_fleet() -> ResponseReturnValue:
    return redirect(url_for("fleet.fleet_page"), 303)


def _configured() -> WorkerLimits:
    return WorkerLimits.configured(current_backend().config.fleet)


def _limits_page(state: FleetState, form: LimitsForm) -> str:
    fleet = state.snapshot
    workers = fleet.running + fleet.pending if fleet else 0
    limits = state.limits_in_force(_configured())
    configured = state.snapshot.configured if state.snapshot else _configured()
    return render_template(
        "limits.html",
        form=form,
        words=limits_words(limits, configured, utc_now()),
        workers=workers,
        fleet=state.snapshot,
    )
