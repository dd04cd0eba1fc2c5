"""``fleetsight dead-letters``: what operators type and read, against a web tier that answers over the wire."""

import json
from collections.abc import Iterator

import pytest
from click.testing import CliRunner, Result

from core.config import Config
from core.jobs.store import JobStore
from scripts.cli import fleetsight
from tests.support.dead_letters import DeadLetterDesk
from tests.support.jobs import NOBODY
from tests.support.served import served


@pytest.fixture
def desk(config: Config, store: JobStore) -> DeadLetterDesk:
    return DeadLetterDesk(config, store)


@pytest.fixture
def url(desk: DeadLetterDesk) -> Iterator[str]:
    """The address of the desk's web tier."""
    with served(desk.client.application) as address:
        yield address


def typed(*arguments: str) -> Result:
    return CliRunner().invoke(fleetsight, ["dead-letters", *arguments])


def test_the_list_fits_80_columns_and_nothing_in_it_moves_the_terminal(url: str, desk: DeadLetterDesk) -> None:
    assert typed("list", "--url", url).output == "There are no dead letters.\n"
    images = desk.given_up(f"[red]\x1b[2J{'x' * 80}.jpg", "b.jpg", name="[b]signs")
    result = typed("list", "--url", url)
    assert result.exit_code == 0, result.output
    assert max(len(line) for line in result.output.splitlines()) <= 80
    assert "\x1b" not in result.output
    for words in ("[red][2Jxxx", "[b]signs", "2026-03-01", *(image.ref.image_id for image in images)):
        assert words in result.output


def test_all_pages_are_listed(url: str, desk: DeadLetterDesk) -> None:
    desk.given_up(*(f"{number}.jpg" for number in range(51)))
    told = json.loads(typed("list", "--json", "--url", url).output)
    assert len({each["image_id"] for each in told["dead_letters"]}) == 51


def test_a_dead_letter_is_shown(url: str, desk: DeadLetterDesk) -> None:
    [image] = desk.given_up("a.jpg")
    ids = (image.ref.job_id, image.ref.image_id)
    shown = " ".join(typed("show", *ids, "--url", url).output.split())
    for words in ("file a.jpg (1,234 bytes)", "reason its workers crashed", "tries 5", "retries 0"):
        assert words in shown
    assert json.loads(typed("show", *ids, "--json", "--url", url).output)["image_id"] == image.ref.image_id
    missing = typed("show", image.ref.job_id, NOBODY, "--url", url)
    assert (missing.exit_code, "there is no dead letter of image" in missing.output) == (1, True)


def test_a_dead_letter_is_redriven_once_and_the_status_says_whether_one_stays(url: str, desk: DeadLetterDesk) -> None:
    image, gone = desk.given_up("a.jpg", "b.jpg")
    del desk.bucket.objects[gone.key]
    outcomes = []
    for each in (image, image, gone):
        result = typed("redrive", each.ref.job_id, each.ref.image_id, "--json", "--url", url)
        outcomes.append((json.loads(result.output)["outcome"], result.exit_code))
    assert outcomes == [("sent", 0), ("running", 0), ("gone", 1)]
    assert len(desk.queue.bodies) == 1
    again = typed("redrive", image.ref.job_id, image.ref.image_id, "--url", url)
    assert again.output == "The image is being tried again already.\n"


def test_all_dead_letters_are_redriven(url: str, desk: DeadLetterDesk) -> None:
    gone, *_ = desk.given_up("a.jpg", "b.jpg", "c.jpg")
    del desk.bucket.objects[gone.key]
    result = typed("redrive", "--all", "--url", url)
    shown = " ".join(result.output.split())
    assert (result.exit_code, "2 images requested again; 1 no longer stored" in shown) == (1, True)
    assert typed("discard", gone.ref.job_id, gone.ref.image_id, "--url", url).exit_code == 0
    result = typed("redrive", "--all", "--json", "--url", url)
    assert (result.exit_code, json.loads(result.output)["sent"]) == (0, 0)


def test_a_dead_letter_is_discarded_twice_without_harm(url: str, desk: DeadLetterDesk) -> None:
    [image] = desk.given_up("a.jpg")
    for _ in range(2):
        result = typed("discard", image.ref.job_id, image.ref.image_id, "--url", url)
        assert (result.exit_code, "is discarded" in result.output) == (0, True)
    assert desk.listed() == []


@pytest.mark.parametrize("arguments", [("redrive",), ("redrive", NOBODY), ("redrive", NOBODY, NOBODY, "--all")])
def test_wrong_usage_has_status_2(url: str, desk: DeadLetterDesk, arguments: tuple[str, ...]) -> None:
    desk.given_up("a.jpg")
    assert typed(*arguments, "--url", url).exit_code == 2
    assert desk.queue.bodies == []
