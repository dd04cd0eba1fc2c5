"""The notification of a job: what its user is sent when the job is done."""

from dataclasses import dataclass, replace
from typing import Annotated, Self

from flask import Response, url_for
from flask.typing import ResponseReturnValue
from pydantic import Field
from werkzeug.exceptions import TooManyRequests, UnprocessableEntity

from core.jobs.notifications import (
    Channel,
    DeliveryState,
    Notification,
    NotificationDelivery,
    TooManyNotificationsError,
)
from web_tier.auth.identity import current_identity
from web_tier.auth.job_access import user_jobs
from web_tier.auth.permissions import Right
from web_tier.features.notifications.webhooks import (
    MAX_URL_CHARACTERS,
    SECRET_PATTERN,
    WebhookRefusedError,
    new_secret,
    parse_webhook,
)
from web_tier.http.backend import current_backend
from web_tier.http.bodies import ApiBody
from web_tier.http.openapi import ApiResponse, operation
from web_tier.http.parameters import known_id
from web_tier.http.parsing import json_response, parse_body
from web_tier.http.routes import Routes

notifications_api = Routes("notifications_api")

EXAMPLE = '{"webhook": {"url": "https://example.com/done"}}'


class WebhookWanted(ApiBody):
    """Where a webhook is sent."""

    url: str = Field(max_length=MAX_URL_CHARACTERS, description="Its host must be in `notifications.webhook_hosts`.")
    secret: Annotated[str, Field(pattern=SECRET_PATTERN)] | None = Field(
        default=None,
        description="Key of the signature: `whsec_` and 24 to 64 bytes as base64. If you send none, the response has "
        "a new one.",
        repr=False,
    )


class NotificationWanted(ApiBody):
    """What to send when the job is done; an omitted channel is off."""

    email: bool = Field(default=False, description="Send an e-mail to the address of your account.")
    webhook: WebhookWanted | None = None


class DeliveryBody(ApiBody):
    """One message: where it goes, and whether it was sent."""

    to: str
    state: DeliveryState
    attempts: int = Field(description="Failed tries.")
    error: str | None = Field(description="Why the last try failed.")
    secret: str | None = Field(
        default=None, description="Key of a webhook's signature; only in the response to its request.", repr=False
    )

    @classmethod
    def from_delivery(cls, delivery: NotificationDelivery | None, secret: str | None = None) -> Self | None:
        """Return the body of a message, if there is one."""
        if delivery is None:
            return None
        return cls.copied_from(delivery, to=delivery.target, error=delivery.error or None, secret=secret)


class NotificationBody(ApiBody):
    """What is sent when the job is done, by channel; null where nothing is."""

    email: DeliveryBody | None
    webhook: DeliveryBody | None

    @classmethod
    def from_notification(cls, notification: Notification, secret: str | None = None) -> Self:
        """Return the body of a notification."""
        return cls(
            email=DeliveryBody.from_delivery(notification.delivery("email")),
            webhook=DeliveryBody.from_delivery(notification.delivery("webhook"), secret),
        )


def can_mail() -> bool:
    """Return whether the current user can be sent an e-mail."""
    return current_backend().config.notifications.mail_sender is not None and bool(current_identity().email)


@dataclass(frozen=True, slots=True)
class NotificationForm:
    """What the page of a job offers to its user: an e-mail, and webhooks to these hosts; and what was requested."""

    can_mail: bool
    webhook_hosts: tuple[str, ...]
    email: NotificationDelivery | None = None
    webhook: NotificationDelivery | None = None


def notification_form(job_id: str) -> NotificationForm:
    """Return what the page of a job of the current user offers; reads the table only if it offers something."""
    form = NotificationForm(can_mail(), current_backend().config.notifications.webhook_hosts)
    if not (form.can_mail or form.webhook_hosts):
        return form
    found = user_jobs().notification(job_id)
    return replace(form, email=found.delivery("email"), webhook=found.delivery("webhook"))


def request_notification(job_id: str, wanted: NotificationWanted) -> Notification:
    """Request notifications of a job of the current user; return them.

    Raises:
        UnprocessableEntity: the user cannot be sent what is wanted; the message says why.
        TooManyRequests: the notification of the job was requested too often.
    """
    config, jobs, webhook = current_backend().config.notifications, user_jobs(), wanted.webhook
    jobs.job(job_id)
    if wanted.email and not can_mail():
        raise UnprocessableEntity(
            "e-mails need an account with an address, and notifications.mail_sender in the configuration; "
            "leave email out"
        )
    try:
        if webhook is not None:
            parse_webhook(webhook.url, config)
    except WebhookRefusedError as error:
        raise UnprocessableEntity(str(error)) from error
    targets: dict[Channel, str] = {
        "email": current_identity().email if wanted.email else "",
        "webhook": "" if webhook is None else webhook.url,
    }
    try:
        return jobs.request_notification(
            job_id,
            targets,
            page=url_for("jobs.job_page", job_id=job_id, _external=True),
            secret="" if webhook is None else webhook.secret or new_secret(),
        )
    except TooManyNotificationsError as error:
        raise TooManyRequests(str(error)) from error


@notifications_api.get("/jobs/<job_id>/notification", right=Right.READ)
@operation(ApiResponse(200, "What is sent, and what was.", NotificationBody))
def get_notification(job_id: str) -> Response:
    """Get the notification of a job."""
    return json_response(NotificationBody.from_notification(user_jobs().notification(known_id("job", job_id))))


@notifications_api.put("/jobs/<job_id>/notification", right=Right.CLASSIFY)
@operation(
    ApiResponse(200, "The notification; a webhook's secret is shown only here.", NotificationBody),
    body=NotificationWanted,
)
def set_notification(job_id: str) -> ResponseReturnValue:
    """Request a notification of a job.

    It is sent once, when all images that the job has then have their results. So request it after your last upload.
    For a job that is done it is sent at once. A webhook is signed as Standard Webhooks describes, and tried up to 8
    times. Up to 20 requests for a job.
    """
    wanted = parse_body(NotificationWanted, EXAMPLE)
    notification = request_notification(known_id("job", job_id), wanted)
    return json_response(NotificationBody.from_notification(notification, notification.secret or None))


@notifications_api.delete("/jobs/<job_id>/notification", right=Right.CLASSIFY)
@operation(ApiResponse(204, "What was not sent yet is not sent any more."))
def cancel_notification(job_id: str) -> ResponseReturnValue:
    """Cancel the notification of a job."""
    request_notification(known_id("job", job_id), NotificationWanted())
    return "", 204
