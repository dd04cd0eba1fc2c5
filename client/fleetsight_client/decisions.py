"""The border of doubt: the scores below which an image is `unsure`, from the command line, a file, or a review."""

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from fleetsight_client.api import FleetsightClientError, JobFields
from fleetsight_client.rows import UNSURE
from fleetsight_client.tables import lines_of

USUAL: Final = 0.5

MIN_REVIEWED: Final = 20
"""Reviewed images that a precision is learned from at least."""

MAX_LABELS: Final = 200
"""Labels of a job with a score of their own, as on the server (`web_tier/api/schemas.py`)."""

NEVER: Final = 1.0
"""The score of a label that has no score with the wanted precision."""

_LINE: Final = re.compile(
    r'(?P<indent>\s*)(?P<name>"(?:[^"\\]|\\.)*"|[^"#:][^:]*?)\s*:\s*(?P<value>[^\s#]*)\s*(#.*)?'
)


class MinScoreError(FleetsightClientError):
    """Raised when scores cannot be read or learned; the message says why."""


@dataclass(frozen=True, slots=True)
class MinScores:
    """Scores from which labels count.

    Attributes:
        every: of labels that `labels` does not name.
        labels: by label.
    """

    every: float = USUAL
    labels: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of_job(cls, job: Mapping[str, Any]) -> "MinScores":
        """Return those of a job as the API answers it; older servers do not say."""
        return cls(float(job.get("min_score", USUAL)), dict(job.get("label_min_scores") or {}))

    @property
    def fields(self) -> JobFields:
        """The fields of a job with these scores."""
        return {"min_score": self.every, "label_min_scores": dict(self.labels)}

    def decision(self, label: str | None, score: float | None) -> str | None:
        """Return a label, or `unsure`; None without a label."""
        is_unsure = label is not None and score is not None and score < self.labels.get(label, self.every)
        return UNSURE if is_unsure else label

    def yaml(self) -> Iterator[str]:
        """Yield the lines of a file that `read_min_scores` reads."""
        yield from (f"min_score: {self.every:g}", "labels:")
        yield from (f"  {json.dumps(name, ensure_ascii=False)}: {each:g}" for name, each in self.labels.items())


def read_labels(file: Path) -> list[str]:
    """Return the labels of a file with one on each line, each once.

    Raises:
        MinScoreError: it has none.
        TableError: it cannot be read.
    """
    if not (labels := sorted({*filter(None, map(str.strip, lines_of(file)))})):
        raise MinScoreError(f"--only {file} has no label: write one on each line")
    return labels


def read_min_scores(text: str) -> JobFields:
    """Return the scores of `0.8`, of `80%`, or of a YAML file with `min_score` and below `labels` a line for each.

    The result has only what is stated. Every name is text: YAML would read a label such as `no` as a truth value.

    Raises:
        MinScoreError: it is neither, has no score, or has more labels than a job takes.
        TableError: the file cannot be read.
    """
    if (score := _score_or_none(text)) is not None:
        return {"min_score": score}
    if not Path(text).exists():
        raise MinScoreError(f"{text} is no score from 0 to 1, and no file")
    found, labels, is_in_labels = JobFields(), dict[str, float](), False
    for number, line in enumerate(lines_of(Path(text)), 1):
        if not line.strip() or line.lstrip().startswith("#") or line.strip() == "---":
            continue
        indent, name, value = _parts(line)
        score = _score_or_none(value)
        if name == "labels" and not value and not indent:
            found["label_min_scores"], is_in_labels = labels, True
        elif indent and is_in_labels and name and score is not None:
            labels[name] = score
        elif name == "min_score" and not indent and score is not None:
            found["min_score"], is_in_labels = score, False
        else:
            raise MinScoreError(
                f"{text}, line {number}: write 'min_score: 0.8', 'labels:', or below that '  LABEL: 0.9'"
            )
    if not found:
        raise MinScoreError(
            f"{text} has no score: write 'min_score: 0.8', or 'labels:' and below that '  LABEL: 0.9'"
        )
    if len(labels) > MAX_LABELS:
        raise MinScoreError(f"{text} has scores of {len(labels)} labels: keep at most {MAX_LABELS}")
    return found


def _parts(line: str) -> tuple[str, str, str]:
    """Return indentation, name and value of a line; empty ones for another line."""
    found = _LINE.fullmatch(line)
    if found is None:
        return "", "", ""
    name = found["name"]
    with suppress(ValueError):
        name = json.loads(name) if name.startswith('"') else name.strip("'")
    return found["indent"], name, found["value"]


def _score_or_none(text: str) -> float | None:
    """Return a score of `0.8` or `80%`; None if it is none."""
    with suppress(ValueError):
        score = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
        if 0 <= score <= 1:
            return score
    return None


@dataclass(frozen=True, slots=True)
class Learned:
    """What was learned from a review.

    Attributes:
        reviewed: images with a label and a true label.
        sure: of these, how many have a score that counts, and `correct`, how many of those are right.
        never: labels that have no score with the wanted precision.
        left_out: labels with the score of all, because a job takes no more.
    """

    scores: MinScores
    reviewed: int
    sure: int
    correct: int
    never: Sequence[str]
    left_out: int

    def sentences(self) -> Iterator[str]:
        """Yield it in words."""
        share = f", {self.correct / self.sure:.1%} of them right" if self.sure else ""
        yield f"Reviewed images: {self.reviewed:,}; sure: {self.sure:,}{share}."
        if self.never:
            yield f"No score of these labels is right often enough: {', '.join(self.never)}."
        if self.left_out:
            yield f"Labels with the score of all, since a job takes {MAX_LABELS} others: {self.left_out:,}."
        yield "These figures hold for all images only if a random sample was reviewed."


def learn_min_scores(results: Iterable[Mapping[str, Any]], precision: float) -> Learned:
    """Return the lowest scores from which the share `precision` of reviewed images is right, overall and by label.

    A label with fewer than `MIN_REVIEWED` images has the score of all labels together, and so have those with the
    fewest images if there are more than `MAX_LABELS`.

    Args:
        results: images as the API answers them; those without a label or a true label do not count.
        precision: wanted share, 0 to 1.

    Raises:
        MinScoreError: too few images were reviewed.
    """
    by_label = defaultdict[str, list[tuple[float, bool]]](list)
    for result in results:
        if result.get("correct") is not None and result.get("score") is not None:
            by_label[str(result["label"])].append((float(result["score"]), bool(result["correct"])))
    reviewed = [each for found in by_label.values() for each in found]
    if len(reviewed) < MIN_REVIEWED:
        raise MinScoreError(f"only {len(reviewed)} images have a true label: review at least {MIN_REVIEWED}")
    known = [name for name, found in by_label.items() if len(found) >= MIN_REVIEWED]
    chosen = sorted(known, key=lambda name: -len(by_label[name]))[:MAX_LABELS]
    own = {name: _lowest_score(by_label[name], precision) for name in sorted(chosen)}
    scores = MinScores(_or_never(_lowest_score(reviewed, precision)), {name: _or_never(own[name]) for name in own})
    sure = [
        right for name, found in by_label.items() for score, right in found if scores.decision(name, score) == name
    ]
    never = [name for name, score in own.items() if score is None]
    return Learned(scores, len(reviewed), len(sure), sum(sure), never, len(known) - len(own))


def _or_never(score: float | None) -> float:
    return NEVER if score is None else score


def _lowest_score(found: Iterable[tuple[float, bool]], precision: float) -> float | None:
    """Return the lowest score from which the share `precision` is right, of `MIN_REVIEWED` images or more, if any."""
    ordered, correct = sorted(found, reverse=True), 0
    lowest: float | None = None
    for count, (score, is_correct) in enumerate(ordered, 1):
        correct += is_correct
        is_last_of_score = count == len(ordered) or ordered[count][0] < score
        if is_last_of_score and count >= MIN_REVIEWED and correct >= precision * count:
            lowest = score
    return lowest
