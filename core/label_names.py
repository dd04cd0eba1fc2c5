"""Names of labels as people write them: `Stop_Sign` is the class `stop sign` of a model."""

import re
import unicodedata
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Final

_SEPARATORS: Final = re.compile(r"[\s_-]+")


def plain_label(label: str) -> str:
    """Return the form in which names of labels are compared: in any case, and with `_` or `-` for a space.

    The client has the same function (`fleetsight_client/rows.py`), because neither package imports the other. A test
    compares them.
    """
    return _SEPARATORS.sub(" ", unicodedata.normalize("NFC", label).casefold()).strip()


class ClassNames:
    """The classes of a model by the names that people give them.

    Args:
        classes: of the model; empty if they are not known.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self._by_plain = {plain_label(name): name for name in reversed(classes)}
        self._known = {*classes}

    def find(self, name: str) -> str | None:
        """Return the class that a name means, as the model spells it; None if the model has no such class."""
        return name if name in self._known else self._by_plain.get(plain_label(name))

    def respelled(self, name: str) -> str:
        """Return the class that a name means, or the name as it is if it means none."""
        return self.find(name) or name

    def is_unknown(self, name: str) -> bool:
        """Return whether a name means no class of the model; False if its classes are not known."""
        return bool(self._known) and self.find(name) is None

    def nearest(self, name: str) -> str | None:
        """Return the class with the most similar name, if one is similar."""
        found = get_close_matches(plain_label(name[:50]), self._by_plain, 1, 0.5)
        return self._by_plain[found[0]] if found else None
