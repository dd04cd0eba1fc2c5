"""`python -m app_tier`: the worker process, from its first import to its exit status.

Exit status: 0 if it was idle or stopped by request, 1 if it could not start or failed. The last log line says why.
"""

import faulthandler
import gc
import logging
import os
import sys

from core.logs import configure_logging
from services.endpoint import APP_ID

DECODER = "app_tier.central_crop:central_crop"
"""The function that the decoding processes run."""

_log = logging.getLogger("app_tier")


def main() -> int:
    """Run one worker; return its exit status."""
    gc.disable()  # what is imported stays, and a collector would walk it 160 times: 6% of a start
    configure_logging("worker")
    os.environ.setdefault(APP_ID, "fleetsight-worker")
    faulthandler.enable()
    from app_tier.lifecycle import StopSignals

    signals = StopSignals()
    from core.sandbox.limits import limit_arenas
    from core.sandbox.zygote import Zygote

    limit_arenas(len(os.sched_getaffinity(0)))  # a worker has dozens of threads, which mostly wait
    zygote = Zygote(DECODER)
    zygote.fork()  # before there are threads, or anything that it must not see
    signals.start()
    # numpy starts OpenBLAS's threads when it is imported: 30 ms of CPU for matrix products that are not needed.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from app_tier.lifecycle import NotStartedError
    from app_tier.startup import start_up

    try:
        worker = start_up(zygote)
    except NotStartedError as error:
        _log.error("not started", extra={"reason": str(error)})
        return 1
    gc.freeze()
    gc.enable()
    signals.end(worker.lifetime)
    all_ended = worker.run()
    status = worker.lifetime.status
    _log.log(logging.ERROR if status else logging.INFO, "ended", extra={"reason": worker.lifetime.reason})
    if not all_ended:
        # A thread hangs in a decoder or a call. Its images were given back; waiting for it would bill forever.
        logging.shutdown()
        os._exit(status)
    return status


if __name__ == "__main__":
    sys.exit(main())
