"""Where the cloud is; apart from its clients: the configuration needs no more, and botocore is slow to import."""

from dataclasses import dataclass

APP_ID = "AWS_SDK_UA_APP_ID"
"""The environment variable that names a process to AWS: CloudTrail shows the name as part of the user agent.

https://docs.aws.amazon.com/sdkref/latest/guide/feature-appid.html
"""


@dataclass(frozen=True)
class Endpoint:
    """Where the cloud is and how patiently to call it.

    Attributes:
        url: address of the local cloud; None on AWS.
        max_attempts: calls in all, the first included, with random pauses of up to 20 s between them. botocore makes
            fewer once its retry quota is used up:
            https://docs.aws.amazon.com/sdkref/latest/guide/feature-retry-behavior.html
        connect_timeout: seconds.
        read_timeout: seconds; longer than the longest long poll (20 s).
        pool_size: connections kept open to each service; at least the threads that share a client.
    """

    region: str
    url: str | None = None
    max_attempts: int = 8
    connect_timeout: float = 3.0
    read_timeout: float = 30.0
    pool_size: int = 16
