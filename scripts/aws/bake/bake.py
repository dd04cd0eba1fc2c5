"""The bake, step by step. Each may be a process's last: the next bake goes on from what is there, or undoes it."""

import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from scripts.aws.bake import images, store
from scripts.aws.bake.archived import ROOT
from scripts.aws.bake.builders import (
    LIFE_MINUTES,
    Builder,
    Machines,
    builders,
    console,
    end_builders,
    launch,
    look_at,
)
from scripts.aws.bake.errors import BakeError, BuilderError
from scripts.aws.bake.network import remove_group
from scripts.aws.bake.recipe import ROLES, Base, Recipe, Role, Site, Source
from scripts.aws.bake.report import SHOWN_LINES, checked
from scripts.aws.bake.shelf import prune, store_image
from scripts.aws.waiting import TimedOutError

AGENT_KEY = ROOT / "ami" / "keys" / "amazon-ssm-agent.asc"
KEY_WARNING = timedelta(days=90)
BUILT_SECONDS = (LIFE_MINUTES + 10) * 60.0
LOOK_SECONDS = 10.0


@dataclass(frozen=True)
class Order:
    """What to bake.

    Attributes:
        roles: of the images.
        machines: what builders are launched as.
        force: bake although there is an image of the same source and base.
        logs: folder for the logs of builders that fail.
        now: the time, for the image's tag.
    """

    machines: Machines
    roles: tuple[Role, ...] = ROLES
    force: bool = False
    logs: Path = Path(".fleetsight") / "logs"
    now: Callable[[], datetime] = lambda: datetime.now(UTC)


def bake(site: Site, order: Order, source: Source, base: Base) -> dict[Role, str]:
    """Bake what is ordered, and return the images' ids by role, which are then in the parameter store.

    An image of the same source and base is used as it is. However it ends, no builder is left, nor what only builders
    need; an image that another process is about to have from EC2 is waited for.

    Raises:
        BakeError: an image could not be made; the other one is, where two are ordered.
        TimedOutError: AWS takes too long.
        botocore.exceptions.BotoCoreError, ClientError: AWS cannot be reached, or refuses.
    """
    _say_when_the_key_expires(site, order.now().date())
    recipes = [Recipe(role, source, base) for role in order.roles]
    ready = {} if order.force else there_already(site, recipes)
    failures: list[BuilderError] = []
    try:
        for role, image_id in ready.items():
            images.wait_until_available(site, image_id)
            site.waiting.say(f"{image_id} is the {role}'s image of this source and base already")
        if missing := [recipe for recipe in recipes if recipe.role not in ready]:
            ready |= _build(site, order, missing, failures)
        for role, image_id in ready.items():
            store_image(site, role, image_id)
            prune(site, role)
    finally:
        clean(site, order.roles)
    if failures:
        raise BakeError("\n".join(str(failure) for failure in failures))
    return ready


def _say_when_the_key_expires(site: Site, today: date) -> None:
    """Warn of the day from which on no image can be baked: AWS replaces this key, and says so on one page only."""
    (expires,) = re.findall(r"^Expires: (\S+)$", AGENT_KEY.read_text(), re.MULTILINE)
    if date.fromisoformat(expires) - today < KEY_WARNING:
        site.waiting.say(
            f"The key of Session Manager's agent in {AGENT_KEY.relative_to(ROOT)} expires on {expires}, and nothing "
            "is baked from then on: put AWS's new one there. The file names the page that has it"
        )


def there_already(site: Site, recipes: list[Recipe]) -> dict[Role, str]:
    """Return the images of these recipes that are there or about to be, by role."""
    found = {recipe.role: images.whole(site, recipe) for recipe in recipes}
    return {role: image.image_id for role, image in found.items() if image is not None}


def clean(site: Site, roles: tuple[Role, ...]) -> None:
    """Remove what these roles' bakes need only while they run, and what one that was cut short has left."""
    end_builders(site, roles)
    for role in roles:
        remove_group(site, role)
        store.remove(site, f"{role}/")
    if not builders(site, ROLES):  # another role's may be about to fetch it
        store.remove(site, "source/")
    images.remove_what_is_not_whole(site, roles)


@dataclass(frozen=True)
class Job:
    """A recipe and the builder that is at it."""

    recipe: Recipe
    builder: Builder


def _build(site: Site, order: Order, recipes: list[Recipe], failures: list[BuilderError]) -> dict[Role, str]:
    """Make the images of these recipes side by side; those that could not be made are added to `failures`."""
    store.provide_bucket(site)
    store.upload(site, recipes[0].source)
    jobs = [Job(recipe, _builder_for(site, order, recipe)) for recipe in recipes]
    made: dict[Role, str] = {}
    for job in jobs:
        try:
            seconds = _seconds_of(site, order, job)
        except BuilderError as failure:
            failures.append(failure)
        else:
            site.waiting.say(f"{job.builder.instance_id} took {seconds:.0f} s to build the {job.recipe.role}'s image")
            made[job.recipe.role] = images.create(site, job.recipe, job.builder, f"{order.now():%Y-%m-%dT%H:%M:%SZ}")
    for image_id in made.values():
        images.wait_until_available(site, image_id)
    return made


def _builder_for(site: Site, order: Order, recipe: Recipe) -> Builder:
    """Return the builder that an earlier bake has left at this, if it can still come to something, or a new one."""
    for builder in builders(site, [recipe.role], recipe):
        report = store.read(site, store.report_key(recipe.role, builder.run))
        with suppress(BuilderError):
            if report is not None:
                checked(report, recipe)
            if report is not None or builder.state in {"pending", "running"}:
                site.waiting.say(f"{builder.instance_id} builds the {recipe.role}'s image already")
                return builder
    return launch(site, recipe, order.machines)


def _seconds_of(site: Site, order: Order, job: Job) -> float:
    """Wait for a builder's end, and return how long it took to make what was ordered.

    Raises:
        BuilderError: it has not; what it has written is kept.
    """
    role, run = job.recipe.role, job.builder.run
    try:
        _wait_until_stopped(site, job)
        return checked(store.read(site, store.report_key(role, run)), job.recipe).seconds
    except BuilderError as error:
        log = store.read(site, store.log_key(role, run)) or console(site, job.builder).encode()
        order.logs.mkdir(parents=True, exist_ok=True)
        path = order.logs / f"bake-{role}.log"
        path.write_bytes(log)
        tail = error.log or "\n".join(log.decode(errors="replace").splitlines()[-SHOWN_LINES:])
        raise BuilderError(f"{error}; its log is {path}, and ends:\n{tail}", tail) from error


def _wait_until_stopped(site: Site, job: Job) -> None:
    builder = job.builder

    def stopped() -> bool | None:
        return True if look_at(site, builder).state in {"stopped", "terminated"} else None

    what = f"{builder.instance_id}, which builds the {job.recipe.role}'s image,"
    try:
        site.waiting.until(stopped, f"{what} to have built and stopped", seconds=BUILT_SECONDS, every=LOOK_SECONDS)
    except TimedOutError as error:
        raise BuilderError(str(error), "") from error
