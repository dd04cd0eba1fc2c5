"""The fleet page: figures, instances, decisions and cost of the fleet, and its controls.

Operators pause and resume the fleet, set the limits of the number of workers, and drain instances.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Self, TypeVar

from flask import redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from pydantic import ValidationError

from core.config import MAX_CAP_DOLLARS, MAX_WORKERS, Config
from core.fleet.models import (
    Decision,
    EndedInstance,
    FleetDay,
    FleetInstances,
    FleetSnapshot,
    FleetSpending,
    WorkerLimits,
)
from core.fleet.store import FleetState
from core.format import (
    InstanceRow,
    allowance_words,
    cap_words,
    capitalised,
    fleet_sentence,
    limits_words,
    next_worker_words,
    pause_words,
    seconds_in_words,
    spending_words,
)
from services.clock import utc_now
from services.ec2 import ALIVE
from web_tier.auth.permissions import Right
from web_tier.features.fleet_control.actions import allow_fleet_dollars, pause_fleet, set_fleet_limits
from web_tier.features.fleet_control.bodies import AllowDollars, FleetStatusBody, SetLimits
from web_tier.features.fleet_control.chart import WINDOWS, fleet_chart
from web_tier.features.fleet_control.console import console_lines
from web_tier.http.backend import current_backend, render_with_fleet
from web_tier.http.bodies import ApiBody
from web_tier.http.parameters import clean_reason
from web_tier.http.routes import Routes

pages = Routes("fleet", right=Right.OPERATE)


MAX_DECISIONS_SHOWN = 12


MAX_SHOWN_CHARACTERS = 10
"""Characters of an invalid field that the form shows again."""


class FleetBody(ApiBody):
    """The fleet as its page shows it, beside the API's answer.

    Attributes:
        status: the answer; before the first report of a controller, without workers and messages.
        workers_of: how many workers boot or drain, as a text.
        idle_end: when workers without images end, and how many of them stay.
        limits: in force.
        month: cost of instances and requests since the first of the month, in US dollars.
        sentence: what happens at the moment, and why; `is_latest` if the newest decision says the same.
        next_worker: what starts a worker while none runs.
        failed_instance: while workers end without an answer, the last one that did; None if it is not listed.
        limits_set: limits that operators have set, since when and why; None if those of config.yaml hold.
        spending: cost of the instances beside the spending caps; None if no cap is configured.
        capped: that a spending cap is reached, and until when; None if none is.
        instances: newest first; `unlisted` is the number of older ones.
        ended: those that ended in the last hour, newest first.
        decisions: the last ones, newest first.
    """

    status: FleetStatusBody
    workers_of: str
    idle_end: str
    limits: WorkerLimits
    month: float
    sentence: str
    next_worker: str
    is_latest: bool
    failed_instance: str | None
    limits_set: str | None
    spending: str | None
    capped: str | None
    paused: str | None
    instances: tuple[InstanceRow, ...]
    unlisted: int
    ended: tuple[EndedInstance, ...]
    decisions: tuple[Decision, ...]

    @classmethod
    def from_state(
        cls,
        state: FleetState,
        config: Config,
        days: Sequence[FleetDay],
        *,
        silent_seconds: float,
    ) -> Self:
        """Return the body of the controller's last report, which is `silent_seconds` old; `days` are over."""
        now, listed = utc_now(), state.instances
        seen_at = now if state.snapshot is None else state.snapshot.at
        limits = state.limits_in_force(WorkerLimits.configured(config.fleet))
        configured = None if state.snapshot is None else state.snapshot.configured
        sentence = fleet_sentence(state.snapshot, silent_seconds)
        decisions = state.decisions.decisions[:MAX_DECISIONS_SHOWN]
        allowance, spending = config.fleet.boot_allowance_seconds, state.spending
        above = f" above {limits.min_workers:,}" if limits.min_workers else ""
        snapshot = (state.snapshot or _unreported(limits, now)).model_copy(update={"problem": state.problem})
        return cls(
            status=FleetStatusBody.from_fleet(snapshot, silent_seconds),
            workers_of=_workers_of(snapshot, listed),
            idle_end=f"idle ones{above} end after {seconds_in_words(config.worker.idle_seconds)}",
            limits=limits,
            month=month_dollars(snapshot.today or FleetDay(day=snapshot.at.astimezone(UTC).date()), days),
            limits_set=state.limits and f"Limits {limits_words(limits, configured, now)}.",
            sentence=sentence,
            failed_instance=_failed_instance(state),
            next_worker=next_worker_words(state.halt(WorkerLimits.configured(config.fleet)), spending),
            spending=spending and spending_words(spending),
            capped=(spending and cap_words(spending)) or None,
            is_latest=any(f"{capitalised(each.words)}." == sentence for each in decisions[:1]),
            paused=None if state.pause is None else pause_words(state.pause),
            instances=tuple(
                InstanceRow.from_instance(each, seen_at, config.prices, allowance) for each in listed.instances
            ),
            unlisted=listed.total - len(listed.instances),
            ended=state.ended_lately(now),
            decisions=decisions,
        )


def _unreported(limits: WorkerLimits, now: datetime) -> FleetSnapshot:
    """Return what is shown before the first report of a controller."""
    counts = dict.fromkeys(("running", "pending", "visible", "in_flight", "peak_workers", "billed_seconds"), 0)
    return FleetSnapshot(at=now, reason="", **counts, **limits.model_dump(include={"min_workers", "max_workers"}))


def _failed_instance(state: FleetState) -> str | None:
    if state.snapshot is None or state.snapshot.circuit.is_closed:
        return None
    return next((each.instance_id for each in state.ended_lately(utc_now()) if not each.images), None)


def _workers_of(fleet: FleetSnapshot, listed: FleetInstances) -> str:
    draining = sum(each.draining and each.state in ALIVE for each in listed.instances)
    parts = [f"{count:,} {word}" for count, word in ((fleet.pending, "pending"), (draining, "draining")) if count]
    noun = "worker" if fleet.running + fleet.pending == 1 else "workers"
    return f"{noun} ({', '.join(parts)})" if parts else noun


def month_dollars(today: FleetDay, before: Sequence[FleetDay]) -> float:
    """Return the cost of the current month (UTC): of `today`, and of the days `before` in the same month."""
    first = today.day.replace(day=1)
    days = [today, *(each for each in before if first <= each.day < today.day)]
    return sum(each.dollars for each in days)


@pages.get("/fleet/live", endpoint="fleet_live", is_automatic=True)
@pages.get("/fleet")
def fleet_page() -> str:
    """Show the fleet and its history."""
    backend = current_backend()
    store = backend.fleet
    state = store.state()
    silent_seconds = backend.reports.silent_seconds(state.snapshot)
    window = next((each for each in WINDOWS.values() if each.span == request.args.get("span")), WINDOWS["minutes"])
    return render_template(
        "fleet.html",
        body=FleetBody.from_state(state, backend.config, store.days(), silent_seconds=silent_seconds),
        chart=fleet_chart(store, state.snapshot, window),
        windows=WINDOWS.values(),
        fleet=state.snapshot,
    )


_Wanted = TypeVar("_Wanted", SetLimits, AllowDollars)


def _sent(model: type[_Wanted]) -> tuple[dict[str, str], _Wanted | None]:
    """Return the fields of the form that a browser sent, cut, and what they ask for; None if they are not valid."""
    fields = {name: request.form.get(name, "").strip()[:MAX_SHOWN_CHARACTERS] for name in model.model_fields}
    fields["reason"] = clean_reason(request.form.get("reason", ""))
    try:
        return fields, model.model_validate_strings({name: text for name, text in fields.items() if text})
    except ValidationError:
        return fields, None


@pages.get("/fleet/pause")
def pause_page() -> str:
    """Show the form that pauses the fleet, with its reason."""
    return render_with_fleet("pause.html")


@pages.post("/fleet/pause", audit="fleet paused")
def pause() -> ResponseReturnValue:
    """Pause the fleet and redirect to its page."""
    pause_fleet(request.form.get("reason", ""))
    return _redirect_to_fleet()


@pages.get("/fleet/limits")
def limits_page() -> str:
    """Show the form that sets limits."""
    limits = current_backend().fleet.state().limits_in_force(_configured())
    return _limits_page({"min_workers": str(limits.min_workers), "max_workers": str(limits.max_workers)})


@pages.post("/fleet/limits", audit="limits set")
def set_limits() -> ResponseReturnValue:
    """Set limits and redirect to the fleet's page; show the form again if a field is not valid."""
    fields, wanted = _sent(SetLimits)
    if wanted is None:
        fault = f"Give whole numbers from 0 to {MAX_WORKERS:,}, the minimum at most as high as the maximum."
        return _limits_page({**fields, "fault": fault}), 422
    set_fleet_limits(wanted)
    return _redirect_to_fleet()


@pages.get("/fleet/allowance")
def allowance_page() -> str:
    """Show the form that allows more dollars today."""
    return _allowance_page({})


@pages.post("/fleet/allowance", audit="dollars allowed")
def set_allowance() -> ResponseReturnValue:
    """Raise the spending caps today and redirect to the fleet's page; show the form again if a field is not valid."""
    fields, wanted = _sent(AllowDollars)
    if wanted is None:
        fault = f"Give dollars, more than 0 and up to {MAX_CAP_DOLLARS:,}, such as 5 or 2.50."
        return _allowance_page({**fields, "fault": fault}), 422
    allow_fleet_dollars(wanted)
    return _redirect_to_fleet()


def _allowance_page(form: Mapping[str, str]) -> str:
    state = current_backend().fleet.state()
    spending: FleetSpending | None = state.spending
    return render_template(
        "allowance.html",
        form=form,
        words=spending and spending_words(spending),
        is_set=spending is not None and bool(allowance_words(spending)),
        fleet=state.snapshot,
    )


@pages.get("/fleet/instances/<instance_id>/console")
def console_page(instance_id: str) -> str:
    """Show the last lines of an instance's console."""
    return render_with_fleet("console.html", instance_id=instance_id, lines=console_lines(instance_id))


@pages.get("/fleet/instances/<instance_id>/drain")
def confirm_drain(instance_id: str) -> str:
    """Show the form that confirms the drain of an instance."""
    backend = current_backend()
    instance = backend.fleet.drainable_instance(instance_id)
    return render_with_fleet("drain.html", instance_id=instance_id, instance=instance)


def _redirect_to_fleet() -> ResponseReturnValue:
    return redirect(url_for("fleet.fleet_page"), 303)


def _configured() -> WorkerLimits:
    return WorkerLimits.configured(current_backend().config.fleet)


def _limits_page(form: Mapping[str, str]) -> str:
    state = current_backend().fleet.state()
    fleet, limits = state.snapshot, state.limits_in_force(_configured())
    return render_template(
        "limits.html",
        form=form,
        words=limits_words(limits, fleet.configured if fleet else _configured(), utc_now()),
        workers=fleet.running + fleet.pending if fleet else 0,
        fleet=fleet,
    )
