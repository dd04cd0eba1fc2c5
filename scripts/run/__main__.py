"""Starts the whole system on this machine, classifies a batch, and serves until it is stopped."""

import logging
import signal
import sys
import threading
from pathlib import Path

import click

from fleetsight_client import FleetsightClientError
from fleetsight_client.console import Console
from fleetsight_client.terminal import clean_terminal_output
from localcloud.options import InvalidSwitchError, format_switches, load_scenario, parse_switches
from scripts.home import HOME
from scripts.run.batch import InterruptedBatchError
from scripts.run.images import images_in, sample_images
from scripts.run.model import model_setting, with_photos
from scripts.run.prometheus import CONTROLLER_PORT_VARIABLE, prometheus_instructions
from scripts.run.session import RunSession
from scripts.run.sign_in import provider_settings
from scripts.run.state import open_state
from scripts.run.system import System, free_port
from scripts.standard_options import CONTEXT, version_option
from services.errors import FleetsightError


@click.command("run", context_settings=CONTEXT)
@click.option("--once", is_flag=True, help="End after the job; status 1 when any image is lost or failed.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Also write the summary to this file.")
@click.option(
    "--images",
    "folder",
    type=click.Path(path_type=Path),
    help="Classify the images in this folder. Sub-folders named like classes are true labels.",
)
@click.option("--no-batch", is_flag=True, help="Just serve: classify nothing first.")
@click.option(
    "--model",
    metavar="NAME|PATH",
    help="Serve with this model alone: demo, photos, the name of a bundle that you built, or a path  "
    "[default: photos, if it is installed, and demo for the drawn signs]",
)
@click.option("--port", type=click.IntRange(1, 65_535), help="Port of the page; by default web.port of config.yaml.")
@click.option(
    "--state",
    "state_path",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="Keep jobs, images and sessions in this folder; a later run with it continues.",
)
@click.option("--sign-in", is_flag=True, help="Ask users to sign in, at a development provider on this machine.")
@click.option("--issuer", metavar="URL", help="Ask users to sign in at this OpenID provider; serves without a batch.")
@click.option(
    "--client-id",
    metavar="ID",
    help="Fleetsight's client at --issuer. FLEETSIGHT_CLIENT_SECRET may have its secret.",
)
@click.option("--metrics", is_flag=True, help="Serve metrics, and say how to look at them with Prometheus.")
@click.option(
    "--switch",
    "switches",
    multiple=True,
    metavar="NAME=VALUE",
    help="Inject a fault or delay by a switch of the local cloud (localcloud/README.md); may be repeated.",
)
@click.option(
    "--scenario",
    type=click.Path(path_type=Path),
    help="Set the switches in this YAML file; --switch counts before it.",
)
@version_option
def main(  # noqa: PLR0913, PLR0917 - click calls it by name
    once: bool,
    json_file: Path | None,
    folder: Path | None,
    no_batch: bool,
    model: str | None,
    port: int | None,
    state_path: Path | None,
    sign_in: bool,
    issuer: str | None,
    client_id: str | None,
    metrics: bool,
    switches: tuple[str, ...],
    scenario: Path | None,
) -> None:
    """Run Fleetsight on this machine and classify 100 drawn road signs, or the images of a folder."""
    if (issuer is None) is not (client_id is None):
        raise click.UsageError("--issuer and --client-id belong together: give both, or --sign-in alone")
    if (no_batch or issuer) and (once or json_file is not None or folder is not None):
        option = "--no-batch" if no_batch else "--issuer"
        raise click.UsageError(f"{option} classifies nothing: leave out --once, --json and --images")
    logging.basicConfig(level=logging.WARNING, format="fleetsight: %(message)s")
    stop, console = _stop_on_signals(), Console()
    try:
        option = "--scenario"
        scenario_values = load_scenario(scenario) if scenario else {}
        option = "--switch"
        switches = (*format_switches(scenario_values), *switches)
        parse_switches(switches)
        overrides = {} if port is None else {"FLEETSIGHT__WEB__PORT": str(port)}
        overrides |= provider_settings(issuer, client_id) if issuer and client_id else {}
        overrides |= {CONTROLLER_PORT_VARIABLE: str(free_port())} if metrics else {}
        overrides |= model_setting(model, console.print, stop) if model is not None else {}
        state = None if state_path is None else open_state(state_path)
        if state is not None:
            console.print(state.sentence, soft_wrap=True)
        system = System(HOME, overrides, switches=switches, state=state, has_provider=sign_in and not issuer)
        if folder is not None:
            images_in(folder)  # before a model is built
        system, bundle, offered = with_photos(system, console.print, stop)
        images = None
        if folder is not None:
            images = images_in(folder, bundle.labels)
        elif not no_batch and not issuer:
            images = sample_images(HOME / "samples", (offered or bundle).labels)
        session = RunSession(
            system,
            images,
            console,
            stop,
            instructions=prometheus_instructions if metrics else None,
            offered=None if issuer else offered,  # only an operator may offer a model
            is_batch_for_offered=folder is None and images is not None,
        )
        sys.exit(session.run(once=once, json_file=json_file))
    except InvalidSwitchError as error:
        print(f"fleetsight: {option}: {error}", file=sys.stderr)
        sys.exit(2)
    except (FleetsightError, FleetsightClientError) as error:
        print(f"fleetsight: {error}", file=sys.stderr)
        sys.exit(130 if isinstance(error, InterruptedBatchError) else 2)


def _stop_on_signals() -> threading.Event:
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda _number, _frame: stop.set())
    return stop


if __name__ == "__main__":
    clean_terminal_output()
    main(prog_name="./scripts/run.sh")
