"""What the address of a job's page asks for: which images, in which order, and how they are shown."""

from dataclasses import dataclass
from typing import get_args

from flask import request
from werkzeug.exceptions import BadRequest

from core.format import percent_text
from web_tier.results.query import ORDERS, ImageState, ResultsFilter


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked for.

    Attributes:
        low, high: the least and the greatest score, in percent; None asks for nothing.
        sort: one of the `ORDERS`, or empty for the order of the upload.
        view: `grid` or `table`.
    """

    state: ImageState | None
    label: str
    low: float | None
    high: float | None
    name: str
    sort: str
    view: str

    @classmethod
    def of_request(cls) -> "Asked":
        """Return what the current request asks for.

        Raises:
            BadRequest: when it asks for a state or an order that there is not, or for a score that is no percentage.
        """
        args = request.args
        state = _one_of("state", tuple(get_args(ImageState)))
        return cls(
            state=next((one for one in get_args(ImageState) if one == state), None),
            label=args.get("label", ""),
            low=_percent("from"),
            high=_percent("to"),
            name=args.get("q", "").strip(),
            sort=_one_of("sort", tuple(ORDERS)),
            view="table" if args.get("view") == "table" else "grid",
        )

    @property
    def filter(self) -> ResultsFilter:
        """The filter that takes what is asked for."""
        return ResultsFilter(
            state=self.state,
            label=self.label or None,
            min_score=None if self.low is None else self.low / 100,
            max_score=None if self.high is None else self.high / 100,
            filename=self.name or None,
        )

    def words(self, **others: str) -> dict[str, str]:
        """Return the parameters of an address that asks for the same, but for `others`."""
        own = {"state": self.state or "", "label": self.label, "q": self.name, "sort": self.sort}
        own |= {"from": percent_text(self.low), "to": percent_text(self.high)}
        own["view"] = "" if self.view == "grid" else self.view
        return {name: value for name, value in (own | others).items() if value}


def _one_of(name: str, known: tuple[str, ...]) -> str:
    text = request.args.get(name, "")
    if text and text not in known:
        raise BadRequest(f"{name}={text[:40]!r} is not one of {', '.join(known)}")
    return text


def _percent(name: str) -> float | None:
    text = request.args.get(name, "").strip()
    if not text:
        return None
    try:
        found = float(text)
    except ValueError:
        found = -1.0
    if not 0 <= found <= 100:
        raise BadRequest(f"{name}={text[:40]!r} is not a percentage from 0 to 100")
    return found
