"""CloudFormation without a stack, for signals of booted instances: an extension of the local cloud."""

from collections.abc import Iterable
from typing import Any

from localcloud.dispatch import MIDDLEWARE, DirectResponse, service_of
from localcloud.page_guard import WsgiApp

NO_STACKS = (__name__,)
"""For `LocalCloud`: moto's CloudFormation takes no signals."""

_REFUSAL = (
    b"<ErrorResponse><Error><Type>Sender</Type><Code>ValidationError</Code>"
    b"<Message>Stack [no-such-stack] does not exist</Message></Error><RequestId>1</RequestId></ErrorResponse>"
)


def _refusing(aws: WsgiApp) -> WsgiApp:
    def answer(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if service_of(environ) != "cloudformation":
            return aws(environ, start_response)
        return DirectResponse([("Content-Type", "text/xml")], _REFUSAL, "400 Bad Request").send(start_response)

    return answer


MIDDLEWARE.append(_refusing)
