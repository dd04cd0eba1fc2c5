"""Patches of moto: each names a symbol, verifies that moto has not changed it, and replaces it.

Patches are grouped by moto's services and applied once, before the first request of the service.
"""

import functools
import importlib
import inspect
import threading
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, TypeVar

MOTO_VERSION = "5.2.5"

_REMEDY = f"install moto=={MOTO_VERSION} or revisit localcloud"


class MotoChangedError(RuntimeError):
    """Raised when the installed moto differs from the version that the patches were written for."""


@dataclass(frozen=True)
class Patch:
    """Replaces one symbol of moto.

    Attributes:
        symbol: ``module:attribute`` or ``module:Class.attribute``.
        parameters: the names of the parameters that the original must have, in order.
        build: receives the original and returns its replacement.
        why: the fault of the original.
    """

    symbol: str
    parameters: tuple[str, ...]
    build: Callable[[Any], Any]
    why: str

    def apply(self) -> None:
        """Replace the symbol.

        Raises:
            MotoChangedError: it does not exist, or has other parameters.
        """
        owner, name = _locate(self.symbol)
        original = inspect.getattr_static(owner, name, None)
        found = original and _parameters_of(original.fget if isinstance(original, property) else original)
        if found != self.parameters:
            raise MotoChangedError(f"{self.symbol} takes {found}, expected {self.parameters}; {_REMEDY}")
        setattr(owner, name, self.build(original))


Function = TypeVar("Function", bound=Callable[..., Any])


class Patches(list[Patch]):
    """The patches of a module, in the order in which their functions are defined.

    The methods return decorators. Unless `parameters` names those of the original, separated by spaces, a function
    must have the same parameters as the original.
    """

    def replace(self, symbol: str, why: str, parameters: str = "") -> Callable[[Function], Function]:
        """Replace a function or the getter of a property."""

        def register(function: Function) -> Function:
            def build(original: Any) -> Any:
                return type(original)(function) if isinstance(original, property | staticmethod) else function

            names = tuple(parameters.split()) or _parameters_of(function)
            self.append(Patch(symbol, names, build, why))
            return function

        return register

    def wrap(self, symbol: str, why: str, parameters: str = "") -> Callable[[Function], Function]:
        """Replace a function by one that receives the original as its first argument."""

        def register(function: Function) -> Function:
            def build(original: Any) -> Any:
                @functools.wraps(original)
                def replacement(*args: Any, **kwargs: Any) -> Any:
                    return function(original, *args, **kwargs)

                return replacement

            names = tuple(parameters.split()) or _parameters_of(function)[1:]
            self.append(Patch(symbol, names, build, why))
            return function

        return register


def _parameters_of(function: Any) -> tuple[str, ...]:
    return tuple(inspect.signature(function).parameters)


def _locate(symbol: str) -> tuple[Any, str]:
    module, _, path = symbol.partition(":")
    *parents, name = path.split(".")
    return functools.reduce(getattr, parents, importlib.import_module(module)), name


# imported late: moto's EC2 alone takes most of a second
MODULES = {
    "core": ("localcloud.patches",),
    "s3": ("localcloud.s3.objects",),
    "dynamodb": ("localcloud.dynamodb.tables",),
    "ec2": ("localcloud.ec2.launches", "localcloud.ec2.instances"),
}

_applied: set[str] = set()

_applying = threading.RLock()


@functools.cache
def parse_files_once() -> None:
    """Let botocore parse each of its files once: moto's EC2 reads the same megabytes for each list of regions."""
    from botocore.loaders import JSONFileLoader

    loader: Any = JSONFileLoader
    load_file = loader.load_file
    cached = functools.cache(lambda path: load_file(loader(), path))
    loader.load_file = lambda _self, file_path: cached(file_path)


def patches_of(service: str) -> tuple[Patch, ...]:
    """Return the patches of one of moto's services; empty for a service that stock moto serves."""
    parse_files_once()
    modules = [importlib.import_module(name) for name in MODULES.get(service, ())]
    return tuple(patch for module in modules for patch in module.PATCHES)


def apply_patches(service: str) -> None:
    """Apply the patches of a service; repeated calls have no effect.

    Raises:
        MotoChangedError: the installed moto differs from the version that the patches were written for.
    """
    with _applying:
        if service in _applied:
            return
        if (found := version("moto")) != MOTO_VERSION:
            raise MotoChangedError(f"moto {found} is installed, {MOTO_VERSION} expected; {_REMEDY}")
        for patch in patches_of(service):
            patch.apply()
        _applied.add(service)


PATCHES = Patches()


@PATCHES.replace(
    "moto.core.common_models:BaseModel.__new__",
    "never frees a model, for a dashboard: deleted messages, overwritten objects, copies of items",
)
def untracked(cls: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ARG001 - moto's signature
    """Return an instance that is freed when nothing refers to it."""
    return object.__new__(cls)


PATCHES += [
    Patch(
        "moto.core.responses:method_names_from_class",
        ("clazz",),
        functools.lru_cache(maxsize=256),
        "inspects every member of the response class for each request",
    ),
]
