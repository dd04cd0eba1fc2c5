"""The commands `fleetsight dead-letters`, against a real web tier."""

import json
from collections.abc import Iterator

import pytest
from click.testing import CliRunner, Result

from core.config import Config
from core.jobs.store import JobStore
from scripts.cli import fleetsight
from tests.support.features.dead_letters.desk import DeadLetterDesk
from tests.support.jobs import UNKNOWN_ID
from tests.support.servers import served


@pytest.fixture
def desk(config: Config, store: JobStore) -> DeadLetterDesk:
    return DeadLetterDesk(config, store)


@pytest.fixture
def desk_url(desk: DeadLetterDesk) -> Iterator[str]:
    """The address of the desk's web tier."""
    with served(desk.client.application) as address:
        yield address


def run_dead_letters(*arguments: str) -> Result:
    return CliRunner().invoke(fleetsight, ["dead-letters", *arguments])


def test_the_list_fits_80_columns_without_control_characters(desk_url: str, desk: DeadLetterDesk) -> None:
    assert run_dead_letters("list", "--url", desk_url).output == "There are no dead letters.\n"
    images = desk.given_up(f"[red]\x1b[2J{'x' * 80}.jpg", "b.jpg", name="[b]signs")
    result = run_dead_letters("list", "--url", desk_url)
    assert result.exit_code == 0, result.output
    assert max(len(line) for line in result.output.splitlines()) <= 80
    assert "\x1b" not in result.output
    for words in ("[red]\ufffd[2Jxxx", "[b]signs", "2026-03-01", *(image.ref.image_id for image in images)):
        assert words in result.output


def test_all_pages_are_listed(desk_url: str, desk: DeadLetterDesk) -> None:
    desk.given_up(*(f"{number}.jpg" for number in range(51)))
    reported = json.loads(run_dead_letters("list", "--json", "--url", desk_url).output)
    assert len({each["image_id"] for each in reported["dead_letters"]}) == 51


def test_a_dead_letter_is_shown(desk_url: str, desk: DeadLetterDesk) -> None:
    [image] = desk.given_up("a.jpg")
    ids = (image.ref.job_id, image.ref.image_id)
    shown = " ".join(run_dead_letters("show", *ids, "--url", desk_url).output.split())
    for words in ("file a.jpg (1,234 bytes)", "reason its workers crashed", "tries 5", "retries 0"):
        assert words in shown
    assert (
        json.loads(run_dead_letters("show", *ids, "--json", "--url", desk_url).output)["image_id"]
        == image.ref.image_id
    )
    missing = run_dead_letters("show", image.ref.job_id, UNKNOWN_ID, "--url", desk_url)
    assert (missing.exit_code, "there is no dead letter of image" in missing.output) == (1, True)


def test_a_dead_letter_is_redriven_once_with_the_exit_status(desk_url: str, desk: DeadLetterDesk) -> None:
    image, gone = desk.given_up("a.jpg", "b.jpg")
    del desk.bucket.objects[gone.key]
    outcomes = []
    for each in (image, image, gone):
        result = run_dead_letters(
            "redrive",
            each.ref.job_id,
            each.ref.image_id,
            "--json",
            "--url",
            desk_url,
        )
        outcomes.append((json.loads(result.output)["outcome"], result.exit_code))
    assert outcomes == [("sent", 0), ("running", 0), ("gone", 1)]
    assert len(desk.queue.bodies) == 1
    again = run_dead_letters("redrive", image.ref.job_id, image.ref.image_id, "--url", desk_url)
    assert again.output == "The image is being tried again already.\n"


def test_all_dead_letters_are_redriven(desk_url: str, desk: DeadLetterDesk) -> None:
    gone, *_ = desk.given_up("a.jpg", "b.jpg", "c.jpg")
    del desk.bucket.objects[gone.key]
    result = run_dead_letters("redrive", "--all", "--url", desk_url)
    shown = " ".join(result.output.split())
    assert (result.exit_code, "2 images requested again; 1 no longer stored" in shown) == (1, True)
    assert run_dead_letters("discard", gone.ref.job_id, gone.ref.image_id, "--url", desk_url).exit_code == 0
    result = run_dead_letters("redrive", "--all", "--json", "--url", desk_url)
    assert (result.exit_code, json.loads(result.output)["sent"]) == (0, 0)


@pytest.mark.parametrize(
    "arguments", [("redrive",), ("redrive", UNKNOWN_ID), ("redrive", UNKNOWN_ID, UNKNOWN_ID, "--all")]
)
def test_wrong_usage_has_status_2(desk_url: str, desk: DeadLetterDesk, arguments: tuple[str, ...]) -> None:
    desk.given_up("a.jpg")
    assert run_dead_letters(*arguments, "--url", desk_url).exit_code == 2
    assert desk.queue.bodies == []
