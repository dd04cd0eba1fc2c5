"""What the upload page says of keeping, and what its script is told: limits, and what a batch sets in motion."""

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from core.config import Config
from core.cost import SECONDS_AN_HOUR
from core.fleet.models import FleetSnapshot


def keeping_sentence(unkept_days: float) -> str:
    """Say what the box `keep my images` means; a job without it expires after `unkept_days` days, 0: never."""
    start = "Then the images and their records stay. Otherwise each image is deleted as soon as its label is stored"
    if not unkept_days:
        return f"{start}, and one that failed once it has been tried again."
    days = "1 day" if unkept_days == 1 else f"{unkept_days:g} days"
    return (
        f"{start}, one that failed once it has been tried again or the job expires, "
        f"and the job with its results expires after {days}."
    )


class _ForScript(BaseModel):
    model_config = ConfigDict(frozen=True, alias_generator=to_camel, populate_by_name=True)


class BrowserLimits(_ForScript):
    """Limits of one image and of one request; a browser keeps to them, the server enforces them.

    Attributes:
        max_bytes: of a file.
        max_pixels: of an image, width times height.
        shrink_above: longest side in pixels of an image that is sent as it is; 0 sends every size.
        max_files: of a request.
        max_request_bytes: of a request.
    """

    max_bytes: int
    max_pixels: int
    shrink_above: int
    max_files: int
    max_request_bytes: int

    @classmethod
    def of(cls, config: Config) -> "BrowserLimits":
        """Return those of a configuration."""
        web = config.web
        return cls(
            max_bytes=web.max_image_bytes,
            max_pixels=web.max_image_pixels,
            shrink_above=web.shrink_above_pixels,
            max_files=web.max_files_per_request,
            max_request_bytes=web.max_request_bytes,
        )


class Plan(_ForScript):
    """What the page needs to say how many workers a batch will start.

    Attributes:
        running: workers that are there already or coming.
        most: never more workers than this.
        images_per_worker: one worker starts for so many images.
        worker_cost: least that a worker which is started costs, in US dollars.
        shrink_above: as in `BrowserLimits`.
    """

    running: int
    most: int
    images_per_worker: int
    worker_cost: float
    shrink_above: int

    @classmethod
    def of(cls, config: Config, fleet: FleetSnapshot | None) -> "Plan":
        """Return what follows from a configuration and from what the autoscaler saw last."""
        return cls(
            running=fleet.running + fleet.pending if fleet else 0,
            most=fleet.max_workers if fleet else config.fleet.max_workers,
            images_per_worker=config.fleet.images_per_worker,
            worker_cost=_least_cost(config),
            shrink_above=config.web.shrink_above_pixels,
        )


def _least_cost(config: Config) -> float:
    """Return what the billed minimum of a worker costs, of the type and on the market that are preferred."""
    prices, fleet = config.prices, config.fleet
    hourly = prices.hourly(fleet.instance_types[0], spot=fleet.market == "spot")
    return hourly * prices.minimum_billed_seconds / SECONDS_AN_HOUR
