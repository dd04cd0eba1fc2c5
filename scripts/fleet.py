"""``fleetsight fleet``: show and control a running fleet by the API.

Exit status: 0 if the API has accepted the command, 1 if it has rejected it, 2 for wrong usage or if nothing answers.
"""

import click

from core.config import MAX_CAP_DOLLARS, MAX_WORKERS
from fleetsight_client.cli import CommandGroup
from fleetsight_client.console import Console
from scripts.client import FleetClient
from scripts.operator_command import operator_command, print_json, print_result


@click.group(cls=CommandGroup)
def fleet() -> None:
    """View and manage the running fleet."""


@fleet.command()
@operator_command
def status(client: FleetClient, *, as_json: bool) -> None:
    """Show workers, queue, limits, cost, and each instance."""
    found, instances = client.fleet(), client.instances()
    if as_json:
        print_json({"fleet": found, "instances": instances})
    elif found is not None:
        # Imported here: it loads the models of the fleet, which other commands do not need.
        from scripts.fleet_status import show_fleet

        show_fleet(found, instances, Console())
    if found is None:
        raise click.ClickException("the controller has not published a fleet status yet: check that it runs")


@fleet.command()
@click.argument("reason", default="")
@operator_command
def pause(client: FleetClient, *, reason: str, as_json: bool) -> None:
    """Pause the fleet: the controller launches nothing until `resume`.

    Running workers finish their images and terminate when idle. The web tier still accepts images, which wait. REASON
    is shown with the pause.
    """
    answer = client.pause(reason)
    why = f" ({answer['reason']})" if answer["reason"] else ""
    done = f"The fleet is paused{why}" if answer["changed"] else f"The fleet was paused before{why}"
    print_result(answer, f"{done}: nothing is launched until `fleetsight fleet resume`.", as_json=as_json)


@fleet.command()
@operator_command
def resume(client: FleetClient, *, as_json: bool) -> None:
    """End the pause."""
    answer = client.resume()
    text = f"Resumed. {answer['effect']}" if answer["changed"] else "The fleet was not paused: nothing has changed."
    print_result(answer, text, as_json=as_json)


@fleet.command()
@click.argument("limits", metavar="[[MIN] MAX]", type=click.IntRange(0, MAX_WORKERS), nargs=-1)
@click.option("--reset", is_flag=True, help="Delete the limits: those of config.yaml apply again.")
@click.option("--reason", default="", help="Shown with the limits.")
@operator_command
def scale(client: FleetClient, *, limits: tuple[int, ...], reset: bool, reason: str, as_json: bool) -> None:
    """Set the limits of the fleet: at most MAX workers, and at least MIN.

    MAX alone keeps the minimum, or makes it MAX if it was higher. The limits take effect within seconds. They
    override those of config.yaml until you delete them with --reset. Workers above a lowered maximum finish their
    images and terminate when idle.
    """
    if reset:
        if limits or reason:
            raise click.UsageError("--reset deletes the limits: give it without MIN, MAX and --reason")
        client.reset_limits()
        print_result({"limits_order": None}, "The limits of config.yaml apply again.", as_json=as_json)
        return
    if len(limits) not in {1, 2}:
        raise click.UsageError("give MAX, or MIN and MAX, such as `fleetsight fleet scale 0 5`, or --reset")
    minimum, maximum = (None if len(limits) == 1 else limits[0]), limits[-1]
    if minimum is not None and minimum > maximum:
        raise click.UsageError(f"MIN ({minimum}) must be at most MAX ({maximum})")
    answer = client.set_limits(minimum, maximum, reason)
    text = f"Limits {answer['min_workers']}..{answer['max_workers']} apply until `fleetsight fleet scale --reset`."
    print_result(answer, text, as_json=as_json)


@fleet.command()
@click.argument("dollars", required=False, type=click.FloatRange(0, MAX_CAP_DOLLARS, min_open=True))
@click.option("--reset", is_flag=True, help="Withdraw the allowance: the caps of config.yaml apply again.")
@click.option("--reason", default="", help="Shown with the allowance.")
@operator_command
def allow(client: FleetClient, *, dollars: float | None, reset: bool, reason: str, as_json: bool) -> None:
    """Allow DOLLARS beyond the spending caps until 00:00 UTC.

    It raises fleet.dollars_per_day and fleet.dollars_per_month, and replaces an earlier allowance of today.
    """
    if reset:
        if dollars is not None or reason:
            raise click.UsageError("--reset withdraws the allowance: give it without DOLLARS and --reason")
        client.reset_allowance()
        print_result({"allowance": None}, "The spending caps of config.yaml apply again.", as_json=as_json)
        return
    # Imported here, as in `status`.
    from core.format import dollars as dollar_words

    if dollars is None:
        raise click.UsageError("give DOLLARS, such as `fleetsight fleet allow 5`, or --reset")
    answer = client.allow_dollars(dollars, reason)
    caps = (("today", answer["cap_today"]), ("this month", answer["cap_this_month"]))
    words = " and ".join(f"{dollar_words(cap)} {when}" for when, cap in caps if cap is not None)
    still = " A cap is still reached: allow more." if answer["still_reached"] else ""
    print_result(answer, f"Instances may cost {words}, until 00:00 UTC.{still}", as_json=as_json)


@fleet.command()
@click.argument("instance")
@operator_command
def drain(client: FleetClient, *, instance: str, as_json: bool) -> None:
    """Drain INSTANCE: its worker receives no more images, finishes those it has, and terminates.

    If the fleet still needs it, the controller launches a replacement. To have fewer workers, lower the limits with
    `scale`.
    """
    text = f"{instance} drains: its worker finishes its images and terminates."
    print_result(client.drain(instance), text, as_json=as_json)


@fleet.command()
@click.argument("instance")
@operator_command
def console(client: FleetClient, *, instance: str, as_json: bool) -> None:
    """Show the last 100 lines of the console of INSTANCE, which runs or has ended in the last hour."""
    answer = client.console(instance)
    print_result(answer, "\n".join(answer["lines"]), as_json=as_json)


@fleet.command()
@operator_command
def events(client: FleetClient, *, as_json: bool) -> None:
    """Show the last decisions with their times (UTC), oldest first."""
    from scripts.fleet_status import show_event

    answer = client.decisions()
    if as_json:
        print_json(answer)
        return
    for event in reversed(answer["decisions"]):
        show_event(event, Console())
