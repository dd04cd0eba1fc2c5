"""How a symbol of moto is replaced, or added: named, checked against what it was written for, then set."""

import importlib
import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

MOTO_VERSION = "5.2.5"


class MotoChangedError(RuntimeError):
    """Raised when the installed moto is not the one that the mends were written for."""


@dataclass(frozen=True)
class Patch:
    """One symbol of moto and what takes its place.

    Attributes:
        symbol: ``module:attribute`` or ``module:Class.attribute``.
        parameters: the names of the parameters that the original must have, in order.
        build: receives the original and returns its replacement.
        why: what the original gets wrong.
    """

    symbol: str
    parameters: tuple[str, ...]
    build: Callable[[Any], Any]
    why: str

    def original(self) -> Any:
        """Return what the symbol stands for now.

        Raises:
            MotoChangedError: the symbol is gone.
        """
        owner, name = self._locate()
        try:
            return inspect.getattr_static(owner, name)
        except AttributeError:
            raise MotoChangedError(_remedy(f"{self.symbol} no longer exists")) from None

    def check(self) -> None:
        """Verify that the symbol exists with the expected parameters.

        Raises:
            MotoChangedError: it does not; the message names both signatures.
        """
        original = self.original()
        function: Any = original.fget if isinstance(original, property) else original
        found = tuple(inspect.signature(function).parameters)
        if found != self.parameters:
            raise MotoChangedError(_remedy(f"{self.symbol} takes {found}, expected {self.parameters}"))

    def apply(self) -> None:
        """Check the symbol and put the replacement in its place.

        Raises:
            MotoChangedError: the symbol is not the one this mend was written for.
        """
        self.check()
        owner, name = self._locate()
        setattr(owner, name, self.build(self.original()))

    def _locate(self) -> tuple[Any, str]:
        return _located(self.symbol)


@dataclass(frozen=True)
class NewAttribute:
    """A symbol that moto lacks.

    Attributes:
        symbol: ``module:Class.attribute``.
        value: what it is to be.
        why: what moto cannot do without it.
    """

    symbol: str
    value: Any
    why: str

    def check(self) -> None:
        """Verify that moto still lacks it.

        Raises:
            MotoChangedError: it has one of its own.
        """
        owner, name = _located(self.symbol)
        if getattr(owner, name, self.value) is not self.value:
            raise MotoChangedError(_remedy(f"{self.symbol} exists"))

    def apply(self) -> None:
        """Check, and add it.

        Raises:
            MotoChangedError: moto has one of its own.
        """
        self.check()
        owner, name = _located(self.symbol)
        setattr(owner, name, self.value)


def _located(symbol: str) -> tuple[Any, str]:
    module, _, path = symbol.partition(":")
    *parents, name = path.split(".")
    owner: Any = importlib.import_module(module)
    for parent in parents:
        owner = getattr(owner, parent)
    return owner, name


def check_version() -> None:
    """Verify that moto is exactly the pinned version.

    Raises:
        MotoChangedError: another version is installed.
    """
    if (found := version("moto")) != MOTO_VERSION:
        raise MotoChangedError(_remedy(f"moto {found} is installed, {MOTO_VERSION} expected"))


def apply_all(mends: Iterable[Patch | NewAttribute]) -> None:
    """Apply each mend in order.

    Raises:
        MotoChangedError: a symbol is not the one that its mend was written for.
    """
    for mend in mends:
        mend.apply()


def _remedy(problem: str) -> str:
    return f"{problem}; install moto=={MOTO_VERSION} or revisit localcloud"
