"""`python -m web_tier.controller`: contend for the lease until SIGTERM or SIGINT.

Exit status: 0 when told to stop, 1 when something died (its supervisor starts it again), 2 when the
configuration is not valid.
"""

import logging
import os
import signal
import sys

from botocore.exceptions import BotoCoreError, ClientError

from core.config import Config, config_path, load_config
from core.logs import configure_logging
from services.endpoint import APP_ID
from services.errors import ConfigError
from web_tier.controller.leadership import lead
from web_tier.controller.limits import FleetConfigWatcher
from web_tier.controller.shift import LoopGroup
from web_tier.controller.wiring import ControllerServices, controller_lease

_log = logging.getLogger("web_tier.controller")

STOP_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT})


def main() -> int:
    """Run the controller; return the exit status."""
    # Blocked for every thread and waited for in this one: no handler runs in the middle of anything.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    configure_logging("controller")
    os.environ.setdefault(APP_ID, "fleetsight-controller")
    try:
        return _run(load_config())
    except ConfigError as error:
        _log.critical("%s", error)
        return 2
    except (BotoCoreError, ClientError) as error:
        _log.critical("the services could not be reached: %s", error)
        return 1


def _run(config: Config) -> int:
    path = config_path()
    wiring = ControllerServices.connect(config, path)
    limits = FleetConfigWatcher(path, config.fleet)
    lease = controller_lease(config)

    def new_shift() -> LoopGroup:
        return LoopGroup(lambda active: wiring.ticks(lease.holder, lease.token, limits, active), lambda: lease.held)

    _log.info("contending for the lease", extra={"holder": lease.holder})
    status = lead(lease, new_shift, wait_for_stop)
    _log.info("stopped", extra={"status": status})
    return status


def wait_for_stop(seconds: float) -> bool:
    """Wait for up to `seconds`; tell whether a signal asked this process to stop."""
    told = signal.sigtimedwait(STOP_SIGNALS, seconds)
    # A process that was frozen beyond its wait gets no None from CPython 3.11, but what lay in memory.
    return told is not None and told.si_signo in STOP_SIGNALS


if __name__ == "__main__":
    sys.exit(main())
