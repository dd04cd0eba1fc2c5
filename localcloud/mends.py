"""Every change to moto, by the service it belongs to. Applied once, when that service is first asked for."""

import functools
import importlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from localcloud.mend import NewAttribute, Patch, apply_all, check_version

# imported late: moto's EC2 alone takes most of a second
MODULES = {
    "autoscaling": ("localcloud.scaling",),
    "cognitoidp": (
        "localcloud.user_pools.pools",
        "localcloud.user_pools.passwords",
        "localcloud.user_pools.sign_up",
        "localcloud.user_pools.sign_in",
        "localcloud.user_pools.second_factors",
        "localcloud.user_pools.pool_tokens",
        "localcloud.user_pools.lasting",
    ),
    "core": ("localcloud.hot_path",),
    "s3": ("localcloud.objects", "localcloud.bucket_policies"),
    "sqs": ("localcloud.sqs", "localcloud.move_tasks"),
    "dynamodb": ("localcloud.items", "localcloud.queries", "localcloud.tables"),
    "ec2": (
        "localcloud.account_defaults",
        "localcloud.launches",
        "localcloud.instances",
        "localcloud.describe",
        "localcloud.images",
    ),
}
_applied: set[str] = set()
_applying = threading.RLock()


def mends_of(service: str) -> tuple[Patch | NewAttribute, ...]:
    """Return the mends of a service of moto; empty where stock moto serves."""
    with _service_models_read_once():
        modules = [importlib.import_module(name) for name in MODULES.get(service, ())]
    return tuple(mend for module in modules for mend in module.MENDS)


def mend_service(service: str) -> None:
    """Apply the mends of a service, once, however often it is called.

    Raises:
        MotoChangedError: the installed moto is not the one they were written for.
    """
    with _applying:
        if service in _applied:
            return
        check_version()
        apply_all(mends_of(service))
        _applied.add(service)


@contextmanager
def _service_models_read_once() -> Iterator[None]:
    """Keep the files that botocore reads: moto's EC2 has it parse the same megabytes for each list of regions."""
    from botocore.loaders import JSONFileLoader

    load_file = JSONFileLoader.load_file
    kept = functools.cache(lambda path: load_file(JSONFileLoader(), path))
    loader: Any = JSONFileLoader
    loader.load_file = lambda _self, file_path: kept(file_path)
    try:
        yield
    finally:
        loader.load_file = load_file
