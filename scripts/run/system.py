"""The whole of Fleetsight on one machine: the local cloud, its EC2, the web tier and the controller."""

import errno
import json
import os
import shlex
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from threading import Event, Thread

import urllib3

from app_tier.sizing import MODELS_SHARE, HostResources, fitting_workers, this_machine, worker_bytes
from core.config import AUTO_WORKERS_VARIABLE, PATH_VARIABLE, PREFIX, Config, WorkerSettings, config_path, load_config
from core.format import file_size, plural
from core.jobs.formats import refuse_earlier_format
from core.provision import provision
from core.sandbox.pool import require_limits
from fleetsight_client.api import ApiClient
from localcloud.access_keys import owner_key, write_private
from localcloud.clients import CloudUnreachableError, ControlClient
from localcloud.parent_watch import Lifeline
from localcloud.state.folder import LOGS
from scripts.client import web_url
from scripts.home import HOME_VARIABLE
from scripts.run import log_files
from scripts.run.sign_in import development_settings, operator_token, session_keys
from scripts.run.state import OpenState
from scripts.run.supervisor import ManagedProcess, Supervisor
from services.clients import Clients, new_session
from services.errors import FleetsightError
from services.table import Table
from web_tier.auth.session_keys import CLIENT_SECRET_VARIABLES, KEYS_FILE_VARIABLE
from web_tier.http.metrics import FOLDER_VARIABLE

ROOT = Path(__file__).resolve().parents[2]
WEB_TIER = ("gunicorn", "-c", "python:web_tier.gunicorn", "web_tier.app:create_app()")
"""The module and arguments of the web tier, as its unit on AWS has them."""

READY_SECONDS = 300.0
"""Longest wait until a process answers. A first start compiles packages, which may take minutes on a busy machine."""
RESTORE_SECONDS = 600.0
"""Longest wait until a local cloud has restored its state; 10,000 objects take seconds."""

FAILED_STARTS = 5
"""Ends of a process that has not answered yet after which the next start would end, too."""

_PROCESSES = {"FLEETSIGHT__FLEET__BOOT_SECONDS": "2"}
"""Settings of one machine, unless the environment has others.

Before the first measurement, forecasts take a process for an instance that boots in no more than seconds.
"""


class StartError(FleetsightError):
    """Raised when a part of the system cannot start; the message says why and what to do."""


@dataclass
class System:
    """The system, with its files in a folder of `home` that is named after its port.

    Attributes:
        overrides: configuration that overrides the environment's, as `FLEETSIGHT__SECTION__KEY`.
        switches: of the local cloud, each ``NAME=VALUE``; the cloud does not start with an invalid one.
        extensions: of the local cloud, names of modules; see `localcloud.dispatch.MIDDLEWARE`.
        state: in which the local cloud keeps everything; None keeps it until the end of the system.
        has_provider: whether users sign in at a development provider, which is a process of the system.
    """

    home: Path
    overrides: Mapping[str, str] = field(default_factory=dict)
    supervisor: Supervisor = field(default_factory=Supervisor)
    lifeline: Lifeline = field(default_factory=Lifeline)
    switches: Sequence[str] = ()
    extensions: Sequence[str] = ()
    state: OpenState | None = None
    has_provider: bool = False
    token: str | None = field(default=None, init=False)
    """A personal token of the development provider's operator, once a system with one has started."""
    _stopping: Event = field(default_factory=Event, init=False)

    @cached_property
    def _settings(self) -> dict[str, str]:
        """Fleetsight's variables in the environment of each process."""
        config_file = str(config_path().resolve())
        ours = {name: value for name, value in os.environ.items() if name.startswith(PREFIX)}
        endpoint = {"FLEETSIGHT__AWS__ENDPOINT_URL": self.endpoint_url}
        defaults = dict(_PROCESSES)
        if collector := os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
            defaults["FLEETSIGHT__TRACING__ENDPOINT"] = collector  # workers do not inherit this environment
        sign_in = development_settings(self.provider_url) if self.has_provider else {}
        settings = {**defaults, **ours, **self.overrides, **endpoint, **sign_in, PATH_VARIABLE: config_file}
        # Limits that config.yaml gives itself are read again while the system runs, so only `auto` is set here.
        config = load_config(Path(config_file), settings)
        settings[AUTO_WORKERS_VARIABLE] = str(max(config.fleet.min_workers, _fitting(config.worker, this_machine())))
        workers = load_config(Path(config_file), settings).fleet.max_workers
        # The workers share the cores, so none uses a thread for each core; and the memory.
        share = str(max(1, this_machine().cores // max(1, workers)))
        if not config.worker.threads:
            settings[f"{PREFIX}WORKER__THREADS"] = share
        if not config.worker.model_megabytes:
            megabytes = this_machine().memory_bytes // MODELS_SHARE // max(1, workers) // 2**20
            settings[f"{PREFIX}WORKER__MODEL_MEGABYTES"] = str(max(1, megabytes))
        return settings

    @cached_property
    def endpoint_url(self) -> str:
        """Address of the local cloud, on a port that was free."""
        return f"http://127.0.0.1:{free_port()}"

    @cached_property
    def provider_url(self) -> str:
        """Address of the development provider, on a port that was free."""
        return f"http://127.0.0.1:{free_port()}"

    @cached_property
    def config(self) -> Config:
        """The configuration that the web tier and the controller run with."""
        return load_config(Path(self._settings[PATH_VARIABLE]), self._environment())

    @cached_property
    def state_dir(self) -> Path:
        """The folder of the endpoint, the keys and the instances' files."""
        return self.home / f"run-{self.config.web.port}"

    @property
    def logs(self) -> Path:
        """The folder of the logs, which a restart keeps: in the state, if there is one."""
        return (self.state_dir if self.state is None else self.state.folder.path) / LOGS

    @property
    def fleet_words(self) -> str:
        """The maximum of the fleet and where it comes from, as a sentence."""
        workers, machine = self.config.fleet.max_workers, this_machine()
        has = f"{plural(machine.cores, 'core')} and {file_size(machine.memory_bytes)} of memory"
        fitting = _fitting(self.config.worker, machine)
        if workers == fitting:
            return f"Fleet: up to {plural(workers, 'worker')} on {has}; set fleet.max_workers to change this."
        return f"Fleet: up to {plural(workers, 'worker')}, as set; {has} fit {fitting}."

    @property
    def url(self) -> str:
        """Address of the page."""
        return web_url(self.config.web.host, self.config.web.port)

    @cached_property
    def clients(self) -> Clients:
        """Clients of the local cloud for this process."""
        session = new_session()
        session.set_credentials(owner_key().id, owner_key().secret)
        return Clients(self.config.aws.endpoint(), session)

    def start(self) -> None:
        """Start everything and wait until the page answers.

        Raises:
            ConfigError: the configuration is not valid, or the state has an earlier format.
            MissingLimitsError: this system cannot limit processes that open images, and must.
            StartError: the port is in use, its folder cannot be made, or a part does not start in time.
        """
        check_port_free(self.config.web.host, self.config.web.port)
        try:
            log_files.prepare(self.state_dir, self.logs)
        except OSError as error:
            raise StartError(
                f"cannot write to {self.state_dir}: {error.strerror}; name another folder with {HOME_VARIABLE}"
            ) from error
        require_limits(self.config.sandbox.limits)  # the web tier would end again and again
        Thread(target=log_files.keep_bounded, args=(self.state_dir, self.logs, self._stopping), daemon=True).start()
        write_private(self.state_dir / "endpoint", self.endpoint_url + "\n")
        owner_key().save(self.state_dir)
        options = [part for switch in self.switches for part in ("--switch", switch)]
        options += [part for module in self.extensions for part in ("--extension", module)]
        port = self.endpoint_url.rpartition(":")[2]
        if self.state is not None:
            options += ["--state", str(self.state.folder.path), "--state-lock-fd", str(self.state.lock)]
        self._start("cloud", "-m", "localcloud", "cloud", "--port", port, *options)
        seconds = READY_SECONDS if self.state is None else RESTORE_SECONDS
        self._await(self._cloud_answers, "the local cloud", "cloud", seconds)
        provision(self.clients, self.config)
        table = Table(self.clients.dynamodb, self.config.names.job_table)
        refuse_earlier_format(table, None if self.state is None else self.state.folder.path)
        if self.has_provider:
            self.token = operator_token(table)
            self._start("provider", "-m", "scripts.run.provider", "--port", self.provider_url.rpartition(":")[2])
            self._await(self._provider_answers, "the development provider", "provider")
        where = ("--endpoint", self.endpoint_url, "--state-dir", str(self.state_dir))
        self._start("hypervisor", "-m", "localcloud", "hypervisor", *where)
        self._start("controller", "-m", "web_tier.controller")
        self._start("web", "-m", *WEB_TIER)
        self._await(self._page_answers, "the web tier", "web")

    def api(self) -> ApiClient:
        """Return a client of the API; with a development provider it is the operator's."""
        return ApiClient(self.url, token=self.token)

    def stop(self) -> None:
        """End all processes, the workers included."""
        self._stopping.set()
        self.supervisor.stop()
        self.lifeline.cut()

    def _start(self, name: str, *arguments: str) -> None:
        is_local_cloud = name in {"cloud", "hypervisor"}
        lock = (self.state.lock,) if self.state is not None and name == "cloud" else ()
        line = ("--lifeline-fd", str(self.lifeline.read_end)) if is_local_cloud else ()
        own = self._web_environment() if name == "web" else {}
        self.supervisor.start(
            ManagedProcess(
                name,
                (sys.executable, *arguments, *line),
                self._environment() | own,
                self.logs / f"{name}.log",
                essential=name == "cloud" and self.state is None,
                inherited=((self.lifeline.read_end,) if is_local_cloud else ()) + lock,
            )
        )

    def _environment(self) -> dict[str, str]:
        others = (PREFIX, "AWS_", *CLIENT_SECRET_VARIABLES)
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(others)}
        # The user data of an instance starts its worker.
        exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in sorted(self._settings.items()))
        checkout, python = shlex.quote(str(ROOT)), shlex.quote(sys.executable)
        user_data = f"#!/bin/sh\ncd {checkout}\n{exports}exec {python} -m app_tier\n"
        # The value is read as YAML, where the script's first line would be a comment; JSON is part of YAML.
        script = {"FLEETSIGHT__FLEET__USER_DATA": json.dumps(user_data)}
        return inherited | owner_key().environment | script | self._settings | {"PYTHONPATH": str(ROOT)}

    def _web_environment(self) -> dict[str, str]:
        """Return the variables that only the web tier gets."""
        own = {FOLDER_VARIABLE: str(self.state_dir)}
        if self.config.auth.mode != "none":
            folder = self.state_dir if self.state is None else self.state.folder.path
            own[KEYS_FILE_VARIABLE] = str(session_keys(folder))
        if not self.has_provider:  # its client has no secret
            own |= {name: os.environ[name] for name in CLIENT_SECRET_VARIABLES if name in os.environ}
        return own

    def _provider_answers(self) -> bool:
        return _answers(f"{self.provider_url}/jwks")

    def _cloud_answers(self) -> bool:
        try:
            with closing(ControlClient(self.endpoint_url, timeout_seconds=5)) as cloud:
                return bool(cloud.get("health"))
        except CloudUnreachableError:
            return False

    def _page_answers(self) -> bool:
        """Return whether the web tier serves pages; a scenario may let a service fail that it needs to be ready."""
        return _answers(f"{self.url}/healthz")

    def _await(self, condition: Callable[[], bool], what: str, name: str, seconds: float = READY_SECONDS) -> None:
        deadline, log = time.monotonic() + seconds, self.logs / f"{name}.log"
        while not condition():
            if self.supervisor.failed.is_set():
                raise StartError(self.supervisor.failure)
            times, last = self.supervisor.ends(name)
            if times >= FAILED_STARTS:
                raise StartError(f"{what} ended {times} times before it answered, at last with {last}; see {log}")
            if time.monotonic() > deadline:
                raise StartError(f"{what} does not answer after {seconds:.0f} s; its log is {log}")
            time.sleep(0.02)


def _answers(url: str) -> bool:
    try:
        return urllib3.request("GET", url, timeout=2.0, retries=False).status == 200
    except urllib3.exceptions.HTTPError:
        return False


def _fitting(worker: WorkerSettings, machine: HostResources) -> int:
    """Return how many workers with the configured bundle `machine` has room for."""
    bundle = ROOT / worker.bundle
    files = [bundle] if bundle.suffix == ".zip" else bundle.glob("*.bin")
    weights = sum(path.stat().st_size for path in files if path.is_file())
    return fitting_workers(machine, worker_bytes(worker.engine, weights))


def free_port() -> int:
    """Return a free port of the loopback interface, which no other process is given until this one ends.

    It stays bound here, without listening, so that only a server that asks for this port can listen on it.
    """
    probe = socket.socket()
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do, which then may bind it, too
    probe.bind(("127.0.0.1", 0))
    port: int = probe.getsockname()[1]
    probe.detach()  # its descriptor stays open
    return port


def check_port_free(host: str, port: int) -> None:
    """Check that no process listens on `port`.

    Raises:
        StartError: a process does, or the address cannot be used.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise StartError(
                    f"port {port} is in use: stop what uses it, or choose another with --port {port + 1}"
                ) from error
            raise StartError(f"cannot listen on {host}:{port} (web.host, web.port): {error.strerror}") from error
