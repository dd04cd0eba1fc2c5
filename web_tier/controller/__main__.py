"""`python -m web_tier.controller`: contend for the lease until SIGTERM or SIGINT.

Exit status: 0 after a signal to stop, 1 if a loop has died (the supervisor starts the process again), 2 if the
configuration is not valid, or the job table has an earlier format.
"""

import logging
import os
import signal
import sys
from functools import partial

from botocore.exceptions import BotoCoreError, ClientError

from core.config import config_path, load_config
from core.fleet.store import FleetStore
from core.jobs.formats import refuse_earlier_format
from core.logs import configure_logging, set_level
from core.telemetry import SPANS
from services.clock import utc_now
from services.endpoint import APP_ID
from services.errors import ConfigError
from web_tier.autoscaler.fleet_config import FleetConfigWatcher
from web_tier.autoscaler.metrics import ControllerMetrics
from web_tier.controller.leader import LoopGroup, run_elected
from web_tier.controller.loops import controller_loops
from web_tier.controller.metrics_server import serve_metrics
from web_tier.controller.previous_end import PREVIOUS_END, SUPERVISOR, record_previous_end
from web_tier.controller.services import ControllerServices, controller_lease
from web_tier.http.memory import collect_less_often, return_freed_memory

_log = logging.getLogger("web_tier.controller")

STOP_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT})


def main() -> int:
    """Run the controller; return the exit status."""
    # Blocked for every thread and waited for in this one: no handler runs in the middle of anything.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    configure_logging("controller")
    os.environ.setdefault(APP_ID, "fleetsight-controller")
    try:
        config, path = load_config(), config_path()
        set_level(config.logs.level)
        return_freed_memory()
        lease = controller_lease(config, os.environ.get(SUPERVISOR, ""))
        refuse_earlier_format(lease.table)
        record_previous_end(FleetStore(lease.table), os.environ.get(PREVIOUS_END, ""), utc_now())
        metrics = ControllerMetrics(lambda: lease.held)
        services = ControllerServices.connect(config, metrics)
        SPANS.start("fleetsight-controller", config.tracing)
        serve_metrics(metrics.registry, config.metrics.controller_port)
        collect_less_often()
        fleet_config = FleetConfigWatcher(path, config.fleet)

        def new_loops() -> LoopGroup:
            return LoopGroup(lease, partial(controller_loops, services, fleet_config), metrics.loop_failures)

        _log.info("contending for the lease", extra={"holder": lease.holder})
        status = run_elected(lease, new_loops, wait_for_stop)
        services.close()
    except ConfigError as error:
        _log.critical("%s", error)
        return 2
    except (BotoCoreError, ClientError) as error:
        _log.critical("the services could not be reached: %s", error)
        return 1
    if status == 0:  # else the last line says why
        _log.info("stopped")
    return status


def wait_for_stop(seconds: float) -> bool:
    """Wait for up to `seconds`; return whether a signal asked this process to stop."""
    received = signal.sigtimedwait(STOP_SIGNALS, seconds)
    # In a process that was frozen beyond its wait, CPython 3.11 returns uninitialised memory instead of None.
    return received is not None and received.si_signo in STOP_SIGNALS


if __name__ == "__main__":
    sys.exit(main())
