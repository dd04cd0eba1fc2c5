"""Read CloudFormation templates: YAML or JSON with CloudFormation's short functions, such as ``!Sub``."""

from typing import Any

import yaml

try:  # The parser in C reads our own template in an eighth of the time that the one in Python takes.
    from yaml import CSafeLoader as _SafeLoader
except ImportError:
    from yaml import SafeLoader as _SafeLoader  # type: ignore[assignment]


class _Loader(_SafeLoader):
    """YAML with CloudFormation's short functions; dates stay text, as in JSON."""


def _short_function(loader: yaml.SafeLoader, suffix: str, node: yaml.Node) -> dict[str, Any]:
    value: Any
    if isinstance(node, yaml.ScalarNode):
        value = loader.construct_scalar(node)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        value = loader.construct_mapping(node, deep=True)  # type: ignore[arg-type]  # the third of three
    if suffix in {"Ref", "Condition"}:
        return {suffix: value}
    if suffix == "GetAtt" and isinstance(value, str):
        value = value.split(".", 1)
    return {f"Fn::{suffix}": value}


_Loader.add_multi_constructor("!", _short_function)
_Loader.add_constructor("tag:yaml.org,2002:timestamp", _SafeLoader.construct_yaml_str)  # type: ignore[type-var]  # a method of each loader


def parse_template(text: str) -> Any:
    """Return a template in YAML or JSON as plain data, its functions in their long form (``{"Fn::Sub": …}``).

    https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/intrinsic-function-reference.html

    Raises:
        yaml.YAMLError: the text is neither.
    """
    return yaml.load(text, _Loader)  # nosec B506 # noqa: S506 - a SafeLoader
