"""``fleetsight fleet``: what ops ask of a running fleet, and tell it, through the API.

Exit status: 0 when it was done, 1 when Fleetsight refused it, 2 for wrong usage or when nobody is there to ask.
"""

import json
import sys
import time
from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, Final, ParamSpec

import click
from rich.console import Console

from scripts.client import ApiError, token_of
from scripts.fleet_client import FleetClient, NotThereError, url_of
from services.config import load_config
from services.errors import ConfigError

FOLLOW_SECONDS: Final = 1.0
"""Between two looks for new events."""

P = ParamSpec("P")


class NobodyThereError(click.ClickException):
    """Raised when there is no Fleetsight to ask, or no address of it."""

    exit_code = 2


def _asks(command: Callable[Concatenate[FleetClient, P], None]) -> Callable[P, None]:
    """Give a command `--url` and `--json`, and hand it the client; what goes wrong is one line."""

    @click.option("--url", help="Where Fleetsight is [default: http://, web.host and web.port of config.yaml]")
    @click.option("--json", "as_json", is_flag=True, help="Print what the API answers.")
    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        url = kwargs.pop("url")
        try:
            where = str(url).rstrip("/") if url else url_of(load_config().web)
            client = FleetClient(where, token=token_of())
            command(client, *args, **kwargs)
        except (NotThereError, ConfigError) as error:
            raise NobodyThereError(str(error)) from error
        except ApiError as error:
            raise click.ClickException(str(error)) from error

    return run


@click.group()
def fleet() -> None:
    """Watch and steer the running fleet."""


@fleet.command()
@_asks
def status(client: FleetClient, *, as_json: bool) -> None:
    """Show workers, queue, limits, cost, and each instance."""
    found, instances = client.fleet(), client.instances()
    if as_json:
        _print_json({"fleet": found, "instances": instances})
    elif found is not None:
        # Here, since other commands need not wait for it.
        from scripts.fleet_status import show

        show(found, instances, _console())
    if found is None:
        raise click.ClickException("the controller has not looked at the fleet yet: is it running?")


@fleet.command()
@click.argument("reason", default="")
@_asks
def pause(client: FleetClient, *, reason: str, as_json: bool) -> None:
    """Pause the fleet: nothing is launched until `resume`.

    Workers that run finish what they have and end themselves; images are taken and wait. REASON is shown with it.
    """
    told = client.pause(reason)
    why = f" ({told['reason']})" if told["reason"] else ""
    _say(told, f"The fleet is paused{why}: nothing is launched until `fleetsight fleet resume`.", as_json=as_json)


@fleet.command()
@_asks
def resume(client: FleetClient, *, as_json: bool) -> None:
    """End the pause."""
    _say(client.resume(), "The fleet is not paused.", as_json=as_json)


@fleet.command()
@click.argument("minimum", metavar="[MIN]", type=click.IntRange(min=0), required=False)
@click.argument("maximum", metavar="[MAX]", type=click.IntRange(min=0), required=False)
@click.option("--reset", is_flag=True, help="Take them back: config.yaml's limits hold again.")
@click.option("--reason", default="", help="Shown with the limits.")
@_asks
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
        _say({"limits_order": None}, "The limits of config.yaml hold again.", as_json=as_json)
        return
    if minimum is None or maximum is None:
        raise click.UsageError("say MIN and MAX, such as `fleetsight fleet scale 0 5`, or --reset")
    told = client.set_limits(minimum, maximum, reason)
    words = f"Limits {told['min_workers']}..{told['max_workers']} hold until `fleetsight fleet scale --reset`."
    _say(told, words, as_json=as_json)


@fleet.command()
@click.argument("instance")
@_asks
def drain(client: FleetClient, *, instance: str, as_json: bool) -> None:
    """Ask INSTANCE to finish what it has and end.

    While it is still needed, another is launched in its place, since one that drains takes no more images: for fewer
    workers lower the limits with `scale`.
    """
    words = f"{instance} is asked to drain: it finishes what it has and ends."
    _say(client.drain(instance), words, as_json=as_json)


@fleet.command()
@click.option("--follow", is_flag=True, help="Go on with new ones until Ctrl-C.")
@_asks
def events(client: FleetClient, *, follow: bool, as_json: bool) -> None:
    """Show the last decisions with their times (UTC), oldest first."""
    from scripts.fleet_status import show_event

    told = client.decisions()
    if as_json and not follow:
        _print_json(told)
        return
    console = _console()

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
    """Show each decision that is newer than those `seen`, until Ctrl-C; while nobody answers, say so once."""
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


def _say(told: dict[str, Any], words: str, *, as_json: bool) -> None:
    if as_json:
        _print_json(told)
    else:
        _console().print(words, highlight=False, markup=False)


def _print_json(body: dict[str, Any]) -> None:
    print(json.dumps(body, indent=2))


def _console() -> Console:
    return Console()
