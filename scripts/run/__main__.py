"""Starts the whole system on this machine, classifies a batch, and serves until it is stopped."""

import logging
import signal
import sys
import threading
from dataclasses import replace
from pathlib import Path
from types import FrameType

import click
from rich.console import Console

from localcloud.options import InvalidSwitchError, format_switches, load_scenario, parse_switches
from scripts.run.batch import InterruptedBatchError
from scripts.run.images import images_in, sample_images
from scripts.run.session import RunSession
from scripts.run.system import ROOT, System, worker_image
from services.errors import FleetsightError

HOME = ROOT / ".fleetsight"


@click.command()
@click.option("--once", is_flag=True, help="End after the batch; status 1 when any image is lost or failed.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Also write the summary to this file.")
@click.option("--images", "folder", type=click.Path(path_type=Path), help="Classify the images in this folder.")
@click.option("--port", type=click.IntRange(1, 65_535), help="Port of the page; by default web.port of config.yaml.")
@click.option("--sign-in", is_flag=True, help="People sign in, by a user pool of this command's own (auth.mode).")
@click.option(
    "--switch",
    "switches",
    multiple=True,
    metavar="NAME=VALUE",
    help="Turn a switch of the local cloud, for a hard day; may be repeated. They are in localcloud/README.md.",
)
@click.option(
    "--scenario",
    type=click.Path(path_type=Path),
    help="Turn the switches in this YAML file, to rehearse a bad day; --switch counts before it.",
)
@click.option(
    "--hypervisor",
    type=click.Choice(["process", "nspawn"]),
    default="process",
    show_default=True,
    help="What an instance is: a process, or a machine that boots the workers' image (Linux, root).",
)
def main(  # noqa: PLR0917 - click calls it by name
    once: bool,
    json_file: Path | None,
    folder: Path | None,
    port: int | None,
    sign_in: bool,
    switches: tuple[str, ...],
    scenario: Path | None,
    hypervisor: str,
) -> None:
    """Run Fleetsight on this machine and classify 100 drawn road signs, or the images of a folder."""
    logging.basicConfig(level=logging.WARNING, format="fleetsight: %(message)s")
    stop = _stop_on_signals()
    try:
        option = "--scenario"
        scenario_values = load_scenario(scenario) if scenario else {}
        option = "--switch"
        switches = (*format_switches(scenario_values), *switches)
        parse_switches(switches)
        images = images_in(folder) if folder is not None else sample_images(HOME / "samples")
        overrides = {} if port is None else {"FLEETSIGHT__WEB__PORT": str(port)}
        overrides |= {"FLEETSIGHT__AUTH__MODE": "cognito"} if sign_in else {}
        system = System(HOME, overrides, switches=switches)
        if hypervisor == "nspawn":
            system = replace(system, image=worker_image(system.config, HOME / "images"))
        sys.exit(RunSession(system, images, Console(), stop).run(once=once, json_file=json_file))
    except InvalidSwitchError as error:
        print(f"fleetsight: {option}: {error}", file=sys.stderr)
        sys.exit(2)
    except FleetsightError as error:
        print(f"fleetsight: {error}", file=sys.stderr)
        sys.exit(130 if isinstance(error, InterruptedBatchError) else 2)


def _stop_on_signals() -> threading.Event:
    stop = threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, on_signal)
    return stop


if __name__ == "__main__":
    main()
