"""gunicorn's configuration for the web tier: `gunicorn -c python:web_tier.gunicorn 'web_tier.app:create_app()'`.

The application is loaded once and then forked, so that its imports are paid for once; its clients are made after the
fork. Bodies are bounded by the application, which knows which requests are uploads.
"""

import logging
import os
import resource
import signal
import sys
from typing import Any

from gunicorn.arbiter import Arbiter

from core.config import load_config
from core.logs import JsonFormatter, levels_of, show_stacks_on_signal
from core.sandbox.pool import require_limits
from core.telemetry import SPANS
from services.endpoint import APP_ID
from services.threads import DaemonThread
from web_tier.http.backend import backend_of, require_format
from web_tier.http.memory import collect_less_often, return_freed_memory
from web_tier.http.metrics import SharedFiles
from web_tier.http.middleware import PROXY
from web_tier.results.services import result_services_of

_config = load_config()
_web, _levels = _config.web, levels_of(_config.logs.level)
os.environ.setdefault(APP_ID, "fleetsight-web")

require_limits(_config.sandbox.limits)
require_format(_config)

# A connection is an open file, and the usual limit of 1,024 is for programs that use select.
_max_files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (_max_files, _max_files))
return_freed_memory()
# Before the application makes its metrics.
_counts = SharedFiles()
logging.captureWarnings(True)  # of libraries, which may quote a file of a user's

bind = f"{_web.host}:{_web.port}"
workers = _web.processes
worker_class = "gthread"
threads = _web.threads
# So many more connections may be idle or wait for a thread; others wait until the kernel's backlog accepts them.
worker_connections = _web.threads + 1_000
preload_app = True

# As `BehindProxy` of web_tier/http/middleware.py; headers that set the path are not believed.
forwarded_allow_ips = PROXY if _web.behind_proxy else ""
secure_scheme_headers = {"X-FORWARDED-PROTO": "https"}
forwarder_headers = ""
# More is answered with 414 and 431.
limit_request_line = 4094
limit_request_fields = 64
limit_request_field_size = 8190

proc_name = "fleetsight-web"
control_socket_disable = True

# A browser keeps its connection between two refreshes of a page. nginx keeps its own until gunicorn closes it.
keepalive = 30
# Of a worker's main loop; requests have their own limits (slow_clients.py).
timeout = 30
# An upload that has not finished by then is cut, and its client knows that nothing was accepted.
graceful_timeout = 10
backlog = 2048

accesslog = None  # web_tier.http.middleware writes a line for each request, with its id
logconfig_dict = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"json": {"()": JsonFormatter, "process": "web"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json", "stream": "ext://sys.stderr"}},
    "root": {"level": _levels.pop(""), "handlers": ["stderr"]},
    "loggers": {
        "gunicorn.error": {"level": _config.logs.level.upper(), "handlers": [], "propagate": True},
        "gunicorn.access": {"level": "WARNING", "handlers": [], "propagate": True},
        **{logger: {"level": level} for logger, level in _levels.items()},
    },
}


_STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
"""Signals that end a process. They are blocked from before the fork until a new process has its own handlers."""


def _receive_stops() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)


os.register_at_fork(after_in_parent=_receive_stops)


def pre_fork(server: Any, worker: Any) -> None:
    """Give a new process a place to count that no other one uses, and let signals that end it wait.

    Until a new process has its own handlers it has those of gunicorn's main process, which would do nothing there.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
    worker.slot = _counts.free_slot(each.slot for each in server.WORKERS.values())


def post_fork(_server: Any, worker: Any) -> None:
    """Let a new process count in its place."""
    _counts.slot = worker.slot


def worker_exit(_server: Any, _worker: Any) -> None:
    """Export the spans that wait."""
    SPANS.stop()


def child_exit(_server: Any, worker: Any) -> None:
    """Forget the streams of a process that has ended, also if it was killed."""
    _counts.end(worker.slot)


def on_exit(_server: Any) -> None:
    """Remove the files of the metrics."""
    _counts.remove()


def post_worker_init(worker: Any) -> None:
    """Let a process receive signals that end it, and end its streams of results then, without `graceful_timeout`.

    A process that has no memory from the beginning has inherited that. gunicorn ends then, and its supervisor starts
    it again.
    """
    _receive_stops()
    show_stacks_on_signal()
    collect_less_often()
    SPANS.start("fleetsight-web", _config.tracing)
    try:
        DaemonThread(backend_of(worker.wsgi).prepare, name="prepare").start()
    except (RuntimeError, MemoryError):
        sys.exit(Arbiter.WORKER_BOOT_ERROR)
    result_services_of(worker.wsgi).is_stopping = lambda: not worker.alive
