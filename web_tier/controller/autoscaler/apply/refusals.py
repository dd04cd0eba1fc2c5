"""What EC2's refusals mean: whether a call may have taken place nevertheless, and which choices they are true of.

https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html
"""

from typing import Literal

Scope = Literal["choice", "subnet", "type", "market"]
"""What a refusal speaks of: this choice alone, all of its subnet, of its type on its market, or of its market."""

SCOPES: dict[str, Scope] = {
    "InsufficientInstanceCapacity": "choice",
    "InsufficientHostCapacity": "choice",
    "Unsupported": "choice",
    "SpotMaxPriceTooLow": "choice",
    "InsufficientFreeAddressesInSubnet": "subnet",
    "InvalidParameterCombination": "type",
    "InvalidParameterValue": "type",
    "UnsupportedOperation": "type",
    "VcpuLimitExceeded": "type",
    "InstanceLimitExceeded": "type",
    "MaxSpotInstanceCountExceeded": "market",
}
"""Codes that say something about a choice; any other refusal, such as throttling, would meet every choice.

An invalid parameter is, as a rule, a type that the account or the image does not allow: one that an account on AWS's
Free plan may not launch (https://github.com/aws-samples/eks-workshop-v2/issues/1644), or one of another architecture.
"""

VAGUE = frozenset({"InvalidParameterCombination", "InvalidParameterValue", "UnsupportedOperation"})
"""Codes of many meanings: only the message says which it is."""

UNCERTAIN = frozenset(
    {
        "InternalError",
        "InternalFailure",
        "Unavailable",
        "ServiceUnavailable",
        "RequestTimeout",
        "Server.InternalError",
    }
)
"""Codes after which a launch may have taken place nevertheless; so may it after a bare HTTP 5xx."""

CANNOT_START = frozenset({"IncorrectInstanceState", "InsufficientInstanceCapacity", "InvalidInstanceID.NotFound"})
"""Codes that say of stopped instances that they are not starting, so that others may be launched in their place.

Any other refusal, such as throttling, may follow on a first call that took place although its reply was lost.
"""

LAUNCH_IS_OVER = "IdempotentInstanceTerminated"
"""Code that says of a ClientToken that its launch took place and that its instances have ended since.

Before January 2025, EC2 answered with these instances: https://github.com/boto/boto3/issues/4406
"""


def is_uncertain(code: str, retries: int = 0) -> bool:
    """Return whether a launch that failed with `code` may have taken place nevertheless.

    So it may where botocore has made the call again, `retries` times, and only the last was refused: by throttling,
    for instance. That EC2 has none of a choice it says only of a launch that did not take place.
    """
    return code in UNCERTAIN or (code.isdigit() and code.startswith("5")) or (retries > 0 and code not in SCOPES)
