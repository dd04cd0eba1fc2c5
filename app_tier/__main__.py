"""`python -m app_tier`: the worker process, from its first import to its exit status.

0 when it was idle or was told to stop, 1 when it could not start or go on; the last line of the log says why.
"""

import faulthandler
import logging
import os
import sys

from core.logs import configure_logging
from services.endpoint import APP_ID

DECODER = "app_tier.square:central_square"
"""What the processes run that decode."""

_log = logging.getLogger("app_tier")


def main() -> int:
    """Run one worker; return its exit status."""
    configure_logging("worker")
    os.environ.setdefault(APP_ID, "fleetsight-worker")
    faulthandler.enable()
    from app_tier.lifetime import StopSignals

    signals = StopSignals()
    from core.confined.zygote import Zygote

    zygote = Zygote(DECODER)
    zygote.fork()  # before there are threads, or anything worth to be kept from it
    signals.heed()
    # numpy starts OpenBLAS's threads when it is imported: 30 ms of CPU for matrix products that are not needed.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from app_tier.errors import NotStartedError
    from app_tier.startup import start_up

    try:
        worker = start_up(zygote)
    except NotStartedError as error:
        _log.error("not started", extra={"reason": str(error)})
        return 1
    signals.end(worker.lifetime)
    all_ended = worker.run()
    status = worker.lifetime.status
    _log.log(logging.ERROR if status else logging.INFO, "ended", extra={"reason": worker.lifetime.reason})
    if not all_ended:
        # A thread hangs in a decoder or a call. Its work was given back; waiting for it would bill for ever.
        logging.shutdown()
        os._exit(status)
    return status


if __name__ == "__main__":
    sys.exit(main())
