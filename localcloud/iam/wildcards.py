"""The wildcards of policies: ``*`` is any text, of no length too, and ``?`` any one character.

https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements_resource.html
"""

import functools
import re

_MEANINGS = {"*": ".*", "?": "."}
_ARN_PARTS = 6


def matches(pattern: str, text: str) -> bool:
    """Return True if all of `text` is what `pattern` describes; capitals matter."""
    return _compiled(pattern).fullmatch(text) is not None


def arn_matches(pattern: str, arn: str) -> bool:
    """Say the same of an ARN, each of its six parts apart, as the operators ``ArnEquals`` and ``ArnLike`` do.

    https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements_condition_operators.html
    """
    patterns, parts = pattern.split(":", _ARN_PARTS - 1), arn.split(":", _ARN_PARTS - 1)
    whole = len(patterns) == len(parts) == _ARN_PARTS
    return whole and all(matches(each, part) for each, part in zip(patterns, parts, strict=True))


@functools.lru_cache(maxsize=4096)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile("".join(_MEANINGS.get(char, re.escape(char)) for char in pattern), re.DOTALL)
