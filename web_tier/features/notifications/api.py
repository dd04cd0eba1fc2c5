"""The notification of a job: an e-mail to its user when the job is done."""

from typing import Self

from flask import Response, url_for
from flask.typing import ResponseReturnValue
from pydantic import Field
from werkzeug.exceptions import TooManyRequests, UnprocessableEntity

from core.jobs.notifications import DeliveryState, NotificationDelivery, TooManyNotificationsError
from web_tier.auth.identity import current_identity
from web_tier.auth.job_access import user_jobs
from web_tier.auth.permissions import Right
from web_tier.http.backend import current_backend
from web_tier.http.bodies import ApiBody
from web_tier.http.openapi import ApiResponse, operation
from web_tier.http.parameters import known_id
from web_tier.http.parsing import json_response, parse_body
from web_tier.http.routes import Routes

notifications_api = Routes("notifications_api")


class NotificationWanted(ApiBody):
    """What to send when the job is done."""

    email: bool = Field(description="Whether to send an e-mail to the address of your account; false cancels it.")


class DeliveryBody(ApiBody):
    """One message: where it goes, and whether it was sent."""

    to: str
    state: DeliveryState
    attempts: int = Field(description="Failed tries.")
    error: str | None = Field(description="Why the last try failed.")


class NotificationBody(ApiBody):
    """What is sent when the job is done."""

    email: DeliveryBody | None = Field(description="Null if none was requested.")

    @classmethod
    def from_delivery(cls, email: NotificationDelivery | None) -> Self:
        """Return the body for the e-mail that was requested, if any."""
        if email is None:
            return cls(email=None)
        return cls(email=DeliveryBody.copied_from(email, to=email.target, error=email.error or None))


def can_mail() -> bool:
    """Return whether the current user can be sent an e-mail."""
    return current_backend().config.notifications.mail_sender is not None and bool(current_identity().email)


def request_email(job_id: str, *, is_wanted: bool) -> None:
    """Request an e-mail about a job of the current user, or cancel it.

    Raises:
        UnprocessableEntity: the user cannot be sent an e-mail; the message says why.
        TooManyRequests: the e-mail of the job was requested too often.
    """
    jobs = user_jobs()
    jobs.job(job_id)
    if not is_wanted:
        jobs.cancel_email(job_id)
        return
    if not can_mail():
        raise UnprocessableEntity(
            "e-mails need an account with an address, and notifications.mail_sender in the configuration"
        )
    try:
        page = url_for("jobs.job_page", job_id=job_id, _external=True)
        jobs.request_email(job_id, current_identity().email, page)
    except TooManyNotificationsError as error:
        raise TooManyRequests(str(error)) from error


@notifications_api.get("/jobs/<job_id>/notification", right=Right.READ)
@operation(ApiResponse(200, "What is sent, and what was.", NotificationBody))
def get_notification(job_id: str) -> Response:
    """Get the notification of a job."""
    return json_response(NotificationBody.from_delivery(user_jobs().requested_email(known_id("job", job_id))))


@notifications_api.put("/jobs/<job_id>/notification", right=Right.CLASSIFY)
@operation(ApiResponse(200, "The notification.", NotificationBody), body=NotificationWanted)
def set_notification(job_id: str) -> ResponseReturnValue:
    """Request or cancel the notification of a job.

    It is sent once, when all images that the job has then have their results. So request it after your last upload.
    For a job that is done it is sent at once. It is tried up to 8 times. Up to 20 requests for a job.
    """
    wanted = parse_body(NotificationWanted, '{"email": true}', may_be_empty=False)
    request_email(known_id("job", job_id), is_wanted=wanted.email)
    return get_notification(job_id)
