"""The product without one of its guards, and for each guard a history that breaks a promise without it."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from pytest import MonkeyPatch

from app_tier import models, pipeline, receiver, visibility
from app_tier.network_process import NoNetworkError
from app_tier.task import refuse
from core.jobs import buckets, results, store, uploads
from core.messages import CRASHED_ALONE
from services.errors import ObjectRefusedError, SourceUnavailableError
from services.table import Put, Table, Update
from tests.support.memory_aws.s3 import MemoryBucket, MemorySource
from web_tier.autoscaler import outstanding
from web_tier.controller import cancellation, orphans, result_writer
from web_tier.uploads import ingest


@dataclass(frozen=True)
class Mutant:
    """A guard that `remove` takes out; `shown_by` is a history that breaks a promise then."""

    shown_by: str
    remove: Callable[[MonkeyPatch], None]


MUTANTS: Final[dict[str, Mutant]] = {}


def shown_by(name: str) -> Callable[[Callable[[MonkeyPatch], None]], None]:
    """Return what makes a mutant of a function, with the function's name: that of the guard."""

    def add(remove: Callable[[MonkeyPatch], None]) -> None:
        MUTANTS[remove.__name__] = Mutant(name, remove)

    return add


def wrap(patch: MonkeyPatch, of: Any, name: str, around: Callable[..., Any]) -> None:
    """Replace a function by one that is given it first."""
    before = getattr(of, name)
    patch.setattr(of, name, lambda *args, **named: around(before, *args, **named))


@shown_by("a_repeat_with_a_key_meets_its_first_request")
def the_first_request_with_a_key_is_claimed(patch: MonkeyPatch) -> None:
    patch.setattr(uploads.FirstUpload, "claim", lambda *_: True)


@shown_by("a_web_process_stands_still_until_its_objects_are_swept")
def swept_objects_are_refused(patch: MonkeyPatch) -> None:
    patch.setattr(store, "IS_YOUNG", "attribute_not_exists( #absent ) OR #absent < :put_at")


@shown_by("a_web_process_dies_in_a_closed_job")
def jobs_are_marked_before_their_first_object(patch: MonkeyPatch) -> None:
    wrap(patch, ingest.ImageIngest, "mark", lambda mark, self, job_id: None)


@shown_by("a_form_and_its_commit_are_sent_again")
def a_commit_copies_the_object_of_a_form(patch: MonkeyPatch) -> None:
    patch.setattr(buckets, "_form_key", lambda image: image.key)


@shown_by("rights_are_refused_for_hours")
def what_is_given_back_is_a_new_message(patch: MonkeyPatch) -> None:
    def make_visible(_: object, self: Any, ours: Iterable[Any], delay_seconds: int) -> None:
        self._queue.change_visibility([each.receipt for each in ours], delay_seconds)

    wrap(patch, visibility.VisibilityExtender, "_replace", make_visible)


@shown_by("workers_drain_in_each_step")
def suspicion_stays(patch: MonkeyPatch) -> None:
    def forget(give_back: Any, self: object, ours: Iterable[Any], delay_seconds: int) -> None:
        give_back(self, [replace(each, is_suspect=False) for each in ours], delay_seconds)

    wrap(patch, visibility.VisibilityExtender, "_replace", forget)


@shown_by("a_model_ends_its_loader_beside_good_packs")
def models_are_tried_in_a_child(patch: MonkeyPatch) -> None:
    patch.setattr(models.ModelOpener, "open", lambda self, bundle: self.load(bundle))


@shown_by("collector_canceller_and_retries_write_one_item")
def later_receives_are_classified_in_a_child(patch: MonkeyPatch) -> None:
    def parse(parse_messages: Any, received: object) -> tuple[list[Any], object]:
        deliveries, malformed = parse_messages(received)
        return [replace(each, is_suspect=False) for each in deliveries], malformed

    wrap(patch, receiver, "parse_messages", parse)


@shown_by("there_is_no_memory_for_a_second_network")
def a_child_answers_a_grey_picture_first(patch: MonkeyPatch) -> None:
    def try_alone(before: Any, self: object, image: Any) -> Any:
        try:
            return before(self, image)
        except NoNetworkError:
            return refuse(image, CRASHED_ALONE, "worker")

    wrap(patch, pipeline.Pipeline, "_try_alone", try_alone)


@shown_by("replies_of_receives_are_lost_for_minutes")
def tries_are_stored(patch: MonkeyPatch) -> None:
    wrap(
        patch,
        buckets.OutputBucket,
        "add_try",
        lambda _, self, ref, message_id, receives: receives - pipeline.UNRECORDED_RECEIVES,
    )


@shown_by("a_line_is_stored_while_another_worker_merges")
def lines_are_merged(patch: MonkeyPatch) -> None:
    def put_over(_: object, self: MemoryBucket, key: str, body: bytes, content_type: str, etag: str) -> bool:
        self.put(key, body, content_type)
        return True

    wrap(patch, MemoryBucket, "put_over", put_over)


@shown_by("a_repeat_with_a_key_meets_its_first_request")
def items_of_results_have_versions(patch: MonkeyPatch) -> None:
    def change(before: Any, self: object) -> tuple[Put, Sequence[int]]:
        put, figures = before(self)
        return Put(put.item), figures

    wrap(patch, results.PackResults, "change", change)


@shown_by("a_web_process_stands_still_until_its_objects_are_swept")
def images_are_counted_with_their_items(patch: MonkeyPatch) -> None:
    def transact(before: Any, self: object, *writes: Any, **named: Any) -> None:
        counts = [each for each in writes if isinstance(each, Update) and each.sk == "ACCEPTED" and each.amounts]
        before(self, *(each for each in writes if each not in counts), **named)
        for each in counts:
            before(self, each, **named)

    wrap(patch, Table, "transact", transact)


@shown_by("sources_change_vanish_and_are_refused")
def sources_fail_alone(patch: MonkeyPatch) -> None:
    def read(before: Any, *args: object) -> Any:
        try:
            return before(*args)
        except ObjectRefusedError as error:
            raise SourceUnavailableError(error.code) from error

    wrap(patch, MemorySource, "read", read)


@shown_by("a_label_is_stored_after_its_image_failed_and_not_answered")
def failures_are_read_again(patch: MonkeyPatch) -> None:
    patch.setattr(cancellation.JobCanceller, "is_done_with", lambda *_: True)


@shown_by("collector_canceller_and_retries_write_one_item")
def later_attempts_win(patch: MonkeyPatch) -> None:
    def is_better(new: Any, known: Any) -> bool:
        return known is None or (known.status, new.status) == ("failed", "done")

    patch.setattr(buckets, "_may_replace", is_better)
    patch.setattr(results, "is_better", is_better)


@shown_by("a_later_attempt_meets_the_label_of_an_earlier_one")
def labels_win(patch: MonkeyPatch) -> None:
    def is_better(new: Any, known: Any) -> bool:
        return known is None or (new.attempt, new.status == "done") > (known.attempt, known.status == "done")

    patch.setattr(buckets, "_may_replace", is_better)
    patch.setattr(results, "is_better", is_better)


@shown_by("collector_canceller_and_retries_write_one_item")
def bytes_wait_until_their_pack_is_settled(patch: MonkeyPatch) -> None:
    for each in (result_writer, orphans):
        patch.setattr(each, "is_settled", lambda image, found: any(ref in found for ref in image.pack_refs))


@shown_by("a_later_attempt_meets_the_label_of_an_earlier_one")
def demand_has_messages(patch: MonkeyPatch) -> None:
    def images_of(_: object, self: Any, messages: Any) -> Any:
        self._read()
        left = sum(each.packs - each.answered_packs for each in self._counts.values())
        return replace(messages, visible=messages.visible + left)

    wrap(patch, outstanding.OutstandingPacks, "images_of", images_of)
