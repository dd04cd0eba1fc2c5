"""The server of the local cloud: moto's applications, patched, under gunicorn in one process of many threads.

The server listens on loopback only. Without a state all data is lost when it ends.
"""

import gc
import logging
import os
import signal
import threading
from collections.abc import Iterable
from typing import Any

from gunicorn.app.base import BaseApplication

from localcloud.control import ControlApplication
from localcloud.dispatch import MIDDLEWARE, CountedCalls, DirectCalls, MotoServices, call_counter
from localcloud.ec2.fleet import fleet
from localcloud.faults import FaultyCalls
from localcloud.http_worker import InlineWorker
from localcloud.page_guard import PageGuard, WsgiApp, bucket_allows_post
from localcloud.parent_watch import watch_lifeline
from localcloud.patches import apply_patches
from localcloud.s3.posts import PostObjects
from localcloud.signatures import SignedCalls
from localcloud.state.calls import DurableCalls, restore
from localcloud.state.folder import StateFolder
from localcloud.store import StateError, Store, data, use

log = logging.getLogger(__name__)

HOST = "127.0.0.1"
THREADS = 512  # each long poll has one, and each call without a direct answer
KEEP_ALIVE_SECONDS = 75
STOP_GRACE_SECONDS = 1
STATE_NOT_READ = 4  # exit status of a worker process that cannot read its state
COLLECT_AFTER = 20_000
"""Number of new objects after which the interpreter collects garbage; most requests leave none."""


def create_application() -> PageGuard:
    """Return the cloud's application with the fleet of this process.

    Raises:
        MotoChangedError: the installed moto differs from the version that the patches were written for.
    """
    apply_patches("core")
    aws: WsgiApp = PostObjects(DirectCalls(MotoServices()))
    if data().is_durable:
        aws = DurableCalls(aws)
    for wrap in MIDDLEWARE:
        aws = wrap(aws)
    signed = SignedCalls(CountedCalls(FaultyCalls(aws, fleet.call_faults), call_counter))
    control = ControlApplication(fleet)

    def cloud(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        is_control = environ.get("PATH_INFO", "").startswith("/_embedded/")  # no bucket has such a name
        return (control if is_control else signed)(environ, start_response)

    return PageGuard(cloud, bucket_allows_post)


class CloudServer(BaseApplication):  # type: ignore[misc]
    """gunicorn with the cloud's application: one worker process, many threads, kept-alive connections.

    It binds ``127.0.0.1:port``, or ``fd://n`` for a listening socket of the parent, and ends with the lifeline.
    With a state, the worker process restores it before it answers.
    """

    def __init__(self, bind: str, lifeline: int | None = None, state: StateFolder | None = None) -> None:
        self._bind, self._lifeline, self._state = bind, lifeline, state
        super().__init__()

    def load_config(self) -> None:
        """Configure gunicorn; its constructor calls this."""
        settings = {
            "bind": self._bind,
            "workers": 1,
            "worker_class": InlineWorker,
            "threads": THREADS,
            "keepalive": KEEP_ALIVE_SECONDS,
            "timeout": 0,
            "graceful_timeout": STOP_GRACE_SECONDS,
            "loglevel": "warning",
            "proc_name": "local-cloud",
            "control_socket_disable": True,
            "post_worker_init": self._worker_started,
            "worker_exit": self._worker_ends,
            "child_exit": self._worker_ended,
        }
        for name, value in settings.items():
            self.cfg.set(name, value)

    def load(self) -> PageGuard:
        """Return the application; gunicorn calls this in the worker process."""
        if self._state is not None:
            try:
                use(Store(self._state.path))
                restore()
            except StateError as error:
                log.critical("%s", error)
                os._exit(STATE_NOT_READ)
        return create_application()

    def _worker_started(self, worker: Any) -> None:
        gc.set_threshold(COLLECT_AFTER)
        stop_gunicorn = signal.getsignal(signal.SIGTERM)

        def stop(number: int, frame: Any) -> None:
            threading.Thread(target=_end_long_polls, daemon=True).start()  # no locks in a signal handler
            if callable(stop_gunicorn):
                stop_gunicorn(number, frame)

        signal.signal(signal.SIGTERM, stop)
        if self._lifeline is not None:
            watch_lifeline(self._lifeline, lambda: os.kill(worker.ppid, signal.SIGTERM))

    @staticmethod
    def _worker_ends(_arbiter: Any, _worker: Any) -> None:
        """Close the store, and exit without releasing moto's memory, which would take a second."""
        with data().lock:  # which no other thread gets any more
            data().close()
            os._exit(0)

    @staticmethod
    def _worker_ended(arbiter: Any, _worker: Any) -> None:
        """End the server with its worker: without a state a new worker would be an empty cloud."""
        os.kill(arbiter.pid, signal.SIGTERM)


def _end_long_polls() -> None:
    from localcloud.sqs.calls import end_long_polls

    end_long_polls()
    fleet.close()


def serve(bind: str, lifeline: int | None = None, state: StateFolder | None = None) -> None:
    """Serve the local cloud until SIGTERM or SIGINT, or until the lifeline ends; the caller has locked the state."""
    os.environ.setdefault("MOTO_EC2_LOAD_DEFAULT_AMIS", "true")
    CloudServer(bind, lifeline, state).run()
