"""What a builder says about how it went, and whether that is the image that was ordered."""

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from scripts.aws.bake.errors import BuilderError
from scripts.aws.bake.recipe import Recipe

SHOWN_LINES = 20


class ImageSays(BaseModel):
    """The image's own `version.json`."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    version: str
    commit: str
    role: str
    bundle: str
    engine: str


class Report(BaseModel):
    """A builder's report, as `ami/builder.py` writes it.

    Attributes:
        ok: whether it has made the image.
        problem: why not.
        seconds: how long it took.
        archive: SHA-256 of the source archive that it was to use.
        image: what the image says of itself; None where it was not made.
        versions: of what it stands on.
        log_tail: the last lines of its log.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")
    ok: bool
    problem: str = ""
    role: str
    archive: str
    seconds: float = 0.0
    image: ImageSays | None = None
    versions: dict[str, str] = Field(default_factory=dict)
    log_tail: tuple[str, ...] = ()


def checked(text: bytes | None, recipe: Recipe) -> Report:
    """Return the report of a builder that has made what `recipe` orders.

    Raises:
        BuilderError: it has not, or has made something else, or has reported nothing.
    """
    if text is None:
        raise BuilderError(
            f"the {recipe.role}'s builder has ended without a report. It reports by an address that is good for as "
            "long as the caller's credentials: if they are temporary (single sign-on, a role), sign in anew and bake "
            "again",
            "",
        )
    try:
        report = Report.model_validate_json(text)
    except ValidationError as error:
        raise BuilderError(f"the {recipe.role}'s builder has reported {text[:200]!r}: {error}", "") from error
    log = "\n".join(report.log_tail[-SHOWN_LINES:])
    if not report.ok:
        raise BuilderError(f"the {recipe.role}'s builder has failed: {report.problem}", log)
    if wrong := [
        f"{name} {is_!r} and not {ordered!r}" for name, is_, ordered in _compared(report, recipe) if is_ != ordered
    ]:
        raise BuilderError(f"the {recipe.role}'s builder has made another image: {', '.join(wrong)}", log)
    return report


def _compared(report: Report, recipe: Recipe) -> list[tuple[str, str, str]]:
    facts, image = (
        recipe.source.facts,
        report.image or ImageSays(version="", commit="", role="", bundle="", engine=""),
    )
    return [
        ("source archive", report.archive, facts.sha256),
        ("role", image.role, recipe.role),
        ("version", image.version, facts.version),
        ("commit", image.commit, facts.commit),
        ("bundle", image.bundle, facts.bundle_digest),
        ("engine", image.engine, facts.engine),
    ]
