"""``fleetsight fleet``: what operators ask of a running fleet, and the orders they give it, by the API."""

import json
import sys
import time
from collections.abc import Callable
from typing import Any, Final

import click
from rich.console import Console

from scripts.client import ApiError
from scripts.fleet_client import FleetClient
from scripts.operator_api import asks_operator_api, print_json, say

FOLLOW_SECONDS: Final = 1.0
"""Between two looks for new events."""


@click.group()
def fleet() -> None:
    """Watch and steer the running fleet."""


@fleet.command()
@asks_operator_api
def status(client: FleetClient, *, as_json: bool) -> None:
    """Show workers, queue, limits, cost, and each instance."""
    found, instances = client.fleet(), client.instances()
    if as_json:
        print_json({"fleet": found, "instances": instances})
    elif found is not None:
        # Here, since other commands need not wait for it.
        from scripts.fleet_status import show

        show(found, instances, Console())
    if found is None:
        raise click.ClickException("the controller has not looked at the fleet yet: is it running?")


@fleet.command()
@click.argument("reason", default="")
@asks_operator_api
def pause(client: FleetClient, *, reason: str, as_json: bool) -> None:
    """Pause the fleet: nothing is launched until `resume`.

    Workers that run finish what they have and end themselves; images are taken and wait. REASON is shown with it.
    """
    told = client.pause(reason)
    why = f" ({told['reason']})" if told["reason"] else ""
    say(told, f"The fleet is paused{why}: nothing is launched until `fleetsight fleet resume`.", as_json=as_json)


@fleet.command()
@asks_operator_api
def resume(client: FleetClient, *, as_json: bool) -> None:
    """End the pause."""
    say(client.resume(), "The fleet is not paused.", as_json=as_json)


@fleet.command()
@click.argument("minimum", metavar="[MIN]", type=click.IntRange(min=0), required=False)
@click.argument("maximum", metavar="[MAX]", type=click.IntRange(min=0), required=False)
@click.option("--reset", is_flag=True, help="Take them back: config.yaml's limits hold again.")
@click.option("--reason", default="", help="Shown with the limits.")
@asks_operator_api
def scale(
    client: FleetClient, *, minimum: int | None, maximum: int | None, reset: bool, reason: str, as_json: bool
) -> None:
    """Set the limits of the fleet: at least MIN and at most MAX workers.

    They hold within seconds, in place of those of config.yaml, until they are taken back with --reset. Workers above
    a lowered maximum finish what they have and end themselves.
    """
    if reset:
        if minimum is not None or reason:
            raise click.UsageError("--reset takes limits back, so it goes without MIN, MAX and --reason")
        client.reset_limits()
        say({"limits_order": None}, "The limits of config.yaml hold again.", as_json=as_json)
        return
    if minimum is None or maximum is None:
        raise click.UsageError("say MIN and MAX, such as `fleetsight fleet scale 0 5`, or --reset")
    told = client.set_limits(minimum, maximum, reason)
    words = f"Limits {told['min_workers']}..{told['max_workers']} hold until `fleetsight fleet scale --reset`."
    say(told, words, as_json=as_json)


@fleet.command()
@click.argument("instance")
@asks_operator_api
def drain(client: FleetClient, *, instance: str, as_json: bool) -> None:
    """Ask INSTANCE to finish what it has and end.

    While it is still needed, another is launched in its place, since one that drains takes no more images: for fewer
    workers lower the limits with `scale`.
    """
    words = f"{instance} is asked to drain: it finishes what it has and ends."
    say(client.drain(instance), words, as_json=as_json)


@fleet.command()
@click.option("--follow", is_flag=True, help="Go on with new ones until Ctrl-C.")
@asks_operator_api
def events(client: FleetClient, *, follow: bool, as_json: bool) -> None:
    """Show the last decisions with their times (UTC), oldest first."""
    from scripts.fleet_status import show_event

    told = client.decisions()
    if as_json and not follow:
        print_json(told)
        return
    console = Console()

    def show(event: dict[str, Any]) -> None:
        if as_json:
            print(json.dumps(event), flush=True)
        else:
            show_event(event, console)

    for event in reversed(told["decisions"]):
        show(event)
    if follow:
        follow_events(client, told["decisions"], show)


def follow_events(
    client: FleetClient,
    seen: list[dict[str, Any]],
    show: Callable[[dict[str, Any]], None],
    wait: Callable[[float], None] = time.sleep,
) -> None:
    """Show each decision that is newer than those `seen`, until Ctrl-C; without an answer, say so once."""
    silent = False
    try:
        while True:
            wait(FOLLOW_SECONDS)
            try:
                decisions = client.decisions()["decisions"]
            except ApiError as error:
                if not silent:
                    print(f"fleetsight: {error}; going on", file=sys.stderr)
                silent = True
                continue
            silent = False
            for event in reversed([each for each in decisions if each not in seen]):
                show(event)
            seen = decisions
    except KeyboardInterrupt:
        return
