"""How to look at the metrics of a local system with Prometheus: its configuration, and the command that runs it."""

import shlex
from urllib.parse import urlsplit

import yaml

from localcloud.access_keys import write_private
from scripts.run.system import ROOT, System, free_port

CONTROLLER_PORT_VARIABLE = "FLEETSIGHT__METRICS__CONTROLLER_PORT"
ALERTS = ROOT / "infra" / "prometheus" / "alerts.yml"
SCRAPE_SECONDS = 5


def prometheus_config(page: str, controller_port: int, token_file: str | None) -> dict[str, object]:
    """Return the configuration of a Prometheus server on the machine of a local system.

    Args:
        page: address of the web tier.
        controller_port: port of the controller's metrics.
        token_file: file with an operator's token; None without sign-in.
    """
    web = _scrape("fleetsight-web", urlsplit(page).netloc)
    if token_file is not None:
        web["authorization"] = {"credentials_file": token_file}
    return {
        "global": {"scrape_interval": f"{SCRAPE_SECONDS}s", "evaluation_interval": f"{SCRAPE_SECONDS}s"},
        "rule_files": [str(ALERTS)],
        "scrape_configs": [
            web,
            _scrape("fleetsight-controller", f"127.0.0.1:{controller_port}"),
        ],
    }


def prometheus_instructions(system: System) -> str:
    """Write the configuration for a running system into its folder; return how to use it, for its user."""
    folder, token_file, before = system.state_dir, None, ""
    if system.config.auth.mode != "none":
        token_file = folder / "prometheus-token"
        if system.token is not None:
            write_private(token_file, system.token)
        else:
            before = f"First put a personal token with the scope operate into {token_file}.\n"
    port = system.config.metrics.controller_port
    config = prometheus_config(system.url, port, None if token_file is None else str(token_file))
    path = folder / "prometheus.yml"
    write_private(path, yaml.safe_dump(config, sort_keys=False))
    listens = f"127.0.0.1:{free_port()}"
    command = shlex.join(
        (
            *("prometheus", f"--config.file={path}", f"--storage.tsdb.path={folder / 'prometheus'}"),
            f"--web.listen-address={listens}",
        )
    )
    return (
        f"{before}Metrics: install Prometheus (on Debian the package prometheus), then run in another terminal:\n"
        f"  {command}\n"
        f"Then open http://{listens}/alerts; docs/operate.md explains the metrics."
    )


def _scrape(job: str, target: str) -> dict[str, object]:
    return {"job_name": job, "static_configs": [{"targets": [target]}]}
