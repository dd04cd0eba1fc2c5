"""A job's results as a whole, in JSON: written as they are read, so that their number costs no memory."""

from collections.abc import Iterable, Iterator

from web_tier.api.models import ImageBody
from web_tier.results.query import ImageResult


def json_lines(results: Iterable[ImageResult]) -> Iterator[str]:
    """Yield a line for each image, each an `ImageBody` (https://github.com/ndjson/ndjson-spec)."""
    for result in results:
        yield f"{ImageBody.of(result).model_dump_json()}\n"


def json_object(job_id: str, results: Iterable[ImageResult]) -> Iterator[str]:
    """Yield an `AllResultsBody` in parts: one JSON object, with a line for each image; `job_id` is an id."""
    before = f'{{"job_id":"{job_id}","results":['
    for result in results:
        yield f"{before}\n{ImageBody.of(result).model_dump_json()}"
        before = ","
    yield "]}\n" if before == "," else f"{before}]}}\n"
