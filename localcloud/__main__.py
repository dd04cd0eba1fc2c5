"""``python -m localcloud``: a whole local cloud, or one of its processes: ``cloud|hypervisor|guard``."""

import argparse
import importlib
import logging
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from localcloud.state.folder import StateFolder

LOCK_SECONDS = 10.0
"""Longest wait in seconds for an earlier cloud that ends and still holds the lock of the state."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the cloud or one of its processes until it is stopped."""
    logging.basicConfig(format="%(asctime)s %(name)s %(levelname)s %(message)s")
    options = _parser().parse_args(sys.argv[1:] or ["start"] if arguments is None else arguments)
    options.run(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m localcloud", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="start|cloud|hypervisor|guard")
    start = commands.add_parser("start", help="the default: run a whole cloud; print the environment of its clients")
    start.add_argument("--port", type=int, default=0, help="port on 127.0.0.1; any free one by default")
    start.add_argument("--switch", action="append", default=[], metavar="NAME=VALUE", help="of `Switches`")
    start.add_argument("--state", type=Path, metavar="DIR", help="keep everything in this folder")
    start.set_defaults(run=_start)
    cloud = commands.add_parser("cloud", help="serve the AWS APIs on 127.0.0.1")
    address = cloud.add_mutually_exclusive_group(required=True)
    address.add_argument("--port", type=int, help="port on 127.0.0.1")
    address.add_argument("--fd", type=int, help="number of an inherited listening socket")
    cloud.add_argument("--no-compute", action="store_true", help="instances run at once, without a process")
    cloud.add_argument("--switch", action="append", default=[], metavar="NAME=VALUE", help="of `Switches`")
    cloud.add_argument("--extension", action="append", default=[], metavar="MODULE", help="see `dispatch.MIDDLEWARE`")
    cloud.add_argument("--state", type=Path, metavar="DIR", help="keep everything in this folder")
    cloud.add_argument("--state-lock-fd", type=int, metavar="FD", help="descriptor with the lock of --state")
    cloud.set_defaults(run=_cloud)
    hypervisor = commands.add_parser("hypervisor", help="run a machine for each instance")
    hypervisor.add_argument("--endpoint", required=True, help="URL of the cloud")
    hypervisor.set_defaults(run=_hypervisor)
    guard = commands.add_parser("guard", help="end all instances when the lifeline ends")
    guard.set_defaults(run=_guard)
    for command in (hypervisor, guard):
        command.add_argument("--state-dir", type=Path, required=True, help="a directory for each instance")
    for command, needed in ((cloud, False), (hypervisor, False), (guard, True)):
        command.add_argument("--lifeline-fd", type=int, required=needed, help="end when this pipe ends")
    return parser


def _start(options: argparse.Namespace) -> None:
    from localcloud.launch import LocalCloud, LocalCloudError
    from localcloud.options import InvalidSwitchError, parse_switches

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with TemporaryDirectory(prefix="localcloud-") as folder, suppress(KeyboardInterrupt):
        try:
            switches = parse_switches(options.switch).model_dump() if options.switch else None
            with LocalCloud(Path(folder), options.port, switches=switches, state=options.state) as cloud:
                sys.stdout.writelines(f"{name}={value}\n" for name, value in cloud.environment().items())
                sys.stdout.flush()
                signal.pause()
        except (InvalidSwitchError, LocalCloudError) as error:
            sys.exit(str(error))


def _cloud(options: argparse.Namespace) -> None:
    from localcloud.access_keys import is_inherited
    from localcloud.ec2.fleet import fleet
    from localcloud.options import parse_switches
    from localcloud.server import HOST, serve

    if not is_inherited():
        sys.exit(
            "the cloud needs its owner's key: set AWS_ACCESS_KEY_ID to AKIAEMBEDDED and up to 8 letters or digits, "
            "and AWS_SECRET_ACCESS_KEY to a secret, here and for the clients"
        )
    for module in options.extension:
        importlib.import_module(module)
    fleet.compute = not options.no_compute
    fleet.set_switches(parse_switches(options.switch))
    state = _state(options)
    serve(f"{HOST}:{options.port}" if options.fd is None else f"fd://{options.fd}", options.lifeline_fd, state)


def _state(options: argparse.Namespace) -> "StateFolder | None":
    """Return the state, if there is one, with its lock; the lock lasts as long as this process and its worker."""
    from localcloud.state.folder import StateFolder
    from localcloud.store import StateError

    if options.state is None:
        return None
    try:
        state = StateFolder.usable(options.state)
        if options.state_lock_fd is None:
            state.acquire(LOCK_SECONDS)
        state.prepare()
    except StateError as error:
        sys.exit(str(error))
    return state


def _hypervisor(options: argparse.Namespace) -> None:
    from localcloud.hypervisor import Hypervisor
    from localcloud.parent_watch import watch_lifeline

    options.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    hypervisor = Hypervisor(options.endpoint, options.state_dir)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: hypervisor.stop())
    if options.lifeline_fd is not None:
        watch_lifeline(options.lifeline_fd, hypervisor.stop)
    hypervisor.run()


def _guard(options: argparse.Namespace) -> None:
    from localcloud.parent_watch import guard

    guard(options.state_dir, options.lifeline_fd)


if __name__ == "__main__":
    main()
