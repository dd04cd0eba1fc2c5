"""YAML of users and of files that others wrote, read without what makes a short text a large or endless structure."""

from typing import Any, Final

import yaml

YAML_ERRORS: Final = (yaml.YAMLError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError)
"""Errors of `parse_yaml`: PyYAML's own, and those of Python that it raises, as for `!!int ` without digits."""

_MAX_OPENINGS: Final = 1000
"""Characters with which a collection of YAML can begin."""


def parse_yaml(text: str) -> object:
    """Return what a YAML document contains, by libyaml where it is there: a tenth of the time.

    libyaml overflows the stack of the process if collections are nested too deeply, so it parses no text that could
    nest `_MAX_OPENINGS` of them. No list or mapping may be used again as `*NAME`: a dozen lines could stand for a
    structure that no text of an error and no comparison reaches the end of.

    Raises:
        YAML_ERRORS: it is not YAML, or uses a list or mapping again.
    """
    is_shallow = sum(map(text.count, "[{-?")) < _MAX_OPENINGS
    loader: Any = (getattr(yaml, "CSafeLoader", yaml.SafeLoader) if is_shallow else yaml.SafeLoader)(text)
    try:
        root = loader.get_single_node()
        _check_tree(root)
        return None if root is None else loader.construct_document(root)
    finally:
        loader.dispose()


def yaml_reason(error: Exception) -> str:
    """Return the message of an error of `parse_yaml` on one line, with the type of an error of Python."""
    message = " ".join(str(error).split())
    return message if isinstance(error, yaml.YAMLError) else f"{type(error).__name__}: {message}"


def _check_tree(root: yaml.Node | None) -> None:
    left: list[Any] = [root]
    seen = set[int]()
    while left:
        node = left.pop()
        if not isinstance(node, yaml.CollectionNode):
            continue
        if id(node) in seen:
            raise yaml.YAMLError(f"line {node.start_mark.line + 1}: it is used again as *NAME: write it out")
        seen.add(id(node))
        left += [part for each in node.value for part in (each if isinstance(each, tuple) else (each,))]
