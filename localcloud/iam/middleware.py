"""The authorizer before the local cloud: a request that its signer may not make goes no further.

Off, it costs one look at a switch. A request without a signature goes on: `signatures` lets only those through that
AWS takes without one.
"""

from collections.abc import Callable, Iterable
from typing import Any

from localcloud.dispatch import DirectResponse
from localcloud.ec2.fleet import Fleet
from localcloud.iam.authorizer import Authorizer, DeniedError
from localcloud.iam.calls import Credential, credential_of
from localcloud.iam.questions.s3 import put_object
from localcloud.iam.refusals import Reason, refusal
from localcloud.s3.posts import Form, RefusedError, Signer

WsgiApp = Callable[[dict[str, Any], Any], Iterable[bytes]]


class AuthorizedCalls:
    """WSGI: passes on what may be done.

    Args:
        aws: answers that.
        authorizer: decides.
        fleet: has the switch ``enforce_iam``.
    """

    def __init__(self, aws: WsgiApp, authorizer: Authorizer, fleet: Fleet) -> None:
        self._aws, self._authorizer, self._fleet = aws, authorizer, fleet

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Answer one request."""
        refused = self._refusal(environ) if self._fleet.switches.enforce_iam else None
        if refused is None:
            return self._aws(environ, start_response)
        start_response(refused.status, [*refused.headers, ("Content-Length", str(len(refused.body)))])
        return (refused.body,)

    def _refusal(self, environ: dict[str, Any]) -> DirectResponse | None:
        credential = credential_of(environ)
        if credential is None:
            return None
        try:
            self._authorizer.check(environ, credential)
        except DeniedError as error:
            return refusal(environ, credential.service, Reason.DENIED, str(error))
        return None


def form_check(authorizer: Authorizer, fleet: Fleet) -> Callable[[Form, Signer], None]:
    """Return what `post_objects.PostObjects` asks about a form with a right signature.

    What is returned raises a `RefusedError` when who signed the form may not put the object.
    """

    def check(form: Form, signer: Signer) -> None:
        if not fleet.switches.enforce_iam:
            return
        credential = Credential(signer.access_key, signer.region, "s3")
        asked = put_object(form.bucket, form.fields["key"], signer.region, tagged="tagging" in form.fields)
        try:
            authorizer.check_asked(credential, asked, "")
        except DeniedError as error:
            raise RefusedError(403, "AccessDenied", str(error)) from error

    return check
