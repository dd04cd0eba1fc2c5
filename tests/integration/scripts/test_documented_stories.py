"""Pages of the documents are followed: a command starts a system, and the others use it, or what it leaves."""

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fleetsight_client.api import ApiClient
from scripts.client import FleetClient
from tests.conftest import ROOT
from tests.support.checkouts import link_checkout
from tests.support.documents import code_blocks
from tests.support.jobs import picture
from tests.support.reader import (
    COLOURS,
    CONTINUES,
    FIRST_BATCH,
    KEEPS,
    MODELS,
    OPERATE,
    POISON,
    POLICY,
    STATE,
    Reader,
    blocks_of,
    command_in,
    yaml_in,
)
from tests.support.waiting import wait_until

pytestmark = pytest.mark.processes


def test_a_state_is_continued_copied_restored_and_removed(reader: Reader) -> None:
    with reader.running(KEEPS):
        kept = ApiClient(reader.url).create_job("kept")
    with reader.running(CONTINUES) as run:
        assert "Restoring " in run.printed
        run.expect_batch()
        assert ApiClient(reader.url).status(kept)["name"] == "kept"

    (block,) = (each for each in blocks_of(FIRST_BATCH) if "state snapshot" in each.commands[0])
    places = (("DIR", STATE), ("OTHER", "~/other"), ("backup.state", "~/backup.state"))
    state, other, backup = (reader.home / name for name in ("fleetsight-state", "other", "backup.state"))
    for command in block.commands:
        for place, value in places:
            command = re.sub(rf"\b{place}\b", value, command)  # noqa: PLW2901 (the command that the reader types)
        reader.run(command)
        if "state snapshot" in command:
            assert backup.stat().st_mode & 0o077 == 0
    assert [path.name for path in state.iterdir()] == ["lock"]
    with reader.running(KEEPS.replace(STATE, str(other))):
        assert ApiClient(reader.url).status(kept)["name"] == "kept"


def test_dead_letters_are_made_found_discarded_and_recovered(reader: Reader) -> None:
    reader.write("poison.yaml", yaml_in(OPERATE, "# poison.yaml"))
    heal = next(block for block in blocks_of(OPERATE) if block.commands[0].startswith("curl -H"))
    with reader.running(POISON) as run:
        (reader.folder / ".fleetsight" / "run-8000").symlink_to(run.folder)
        client = FleetClient(reader.url)
        job = client.create_job("mine")
        client.add_images(job, [(f"IMG_{number}.jpg", picture()) for number in range(2)])
        letters = wait_until(
            lambda: letters_of(client, 2), "all images are dead letters", details=lambda: run.printed
        )
        again, unwanted = (letter["image_id"] for letter in letters)

        def of(part: str, image: str) -> str:
            return command_in(OPERATE, part).replace("JOB", job).replace("IMAGE", image)

        listed = reader.run(command_in(OPERATE, "dead-letters list"))
        assert all(f"IMG_{number}.jpg" in listed for number in range(2)), listed
        assert "3" in reader.run(of("dead-letters show", again))
        assert again in reader.run(of("logs --image", again).replace("--image IMAGE", f"--image {again}"))
        reader.run(of("dead-letters discard", unwanted))
        reader.run(heal.commands[0])
        reader.run(of("dead-letters redrive JOB", again))
        reader.run(heal.commands[1])

        def states() -> Mapping[str, str]:
            return {result["image_id"]: result["status"] for result in client.results(job)}

        wait_until(lambda: sorted(states().values()) == ["done", "failed"], "the other has its label")
        assert states()[unwanted] == "failed"
        assert "There are no dead letters." in reader.run(command_in(OPERATE, "dead-letters list"))
    (reader.folder / ".fleetsight" / "run-8000").unlink()


def letters_of(client: FleetClient, count: int) -> list[dict[str, Any]] | None:
    """Return all dead letters once there are so many."""
    letters = list(client.dead_letters())
    return letters if len(letters) == count else None


def test_a_network_of_ones_own_is_exported_built_checked_and_served(reader: Reader) -> None:
    pytest.importorskip("torch", reason="torch is not installed: ./scripts/setup.sh torch")
    commands = [each for block in blocks_of(MODELS) for each in block.commands if "colours" in each]
    reader.run("\n".join(each for each in commands if each not in COLOURS))

    for label, colour in (("red", (200, 40, 30)), ("green", (30, 180, 60)), ("blue", (20, 60, 210))):
        (reader.folder / "colour-photos" / label).mkdir(parents=True)
        for number in range(4):
            image = Image.new("RGB", (64, 48), colour)
            image.save(reader.folder / "colour-photos" / label / f"{number}.jpg")
    with reader.running(COLOURS[0]) as run:
        run.expect(r"no true label +│ +100\b")
        run.expect(r"lost +│ +0\b")
        run.expect(r"100 images, colours@")
    with reader.running(COLOURS[1]) as run:
        run.expect(r"right +│ +12\b")
        run.expect(r"12 images, colours@\w+, true labels from folder names")


def test_a_policy_of_ones_own_plays_in_the_simulator_and_in_a_fleet(reader: Reader, tmp_path: Path) -> None:
    folder = tmp_path / "checkout"
    folder.mkdir()
    copy_checkout(folder)
    write_policy(folder)
    author = Reader(folder, reader.home, reader.port, forks=False)
    (block,) = (each for each in blocks_of(POLICY) if "POLICY=batches" in each.commands[0])
    with author.running("\n".join(block.commands)) as run:
        run.expect(r"p95")
        run.expect_batch()
        decided = FleetClient(reader.url).decisions()
        assert "10 per batch" in str(decided), decided


def copy_checkout(folder: Path) -> None:
    """Copy the code, which the reader changes, and link the packages and the folder of tests."""
    link_checkout(folder)
    for entry in (*folder.iterdir(), *(folder / "scripts").iterdir()):
        if entry.is_symlink() and entry.name not in {".venv", "tests"}:
            source = entry.resolve()
            entry.unlink()
            if source.is_dir():
                shutil.copytree(source, entry)
            else:
                shutil.copy2(source, entry)


def write_policy(folder: Path) -> None:
    """Change the first three of the files as CONTRIBUTING.md says."""
    document = (ROOT / POLICY).read_text(encoding="utf-8")
    function = next(block for block in code_blocks(document, "python") if block.startswith("def batches"))
    (setting,) = re.findall(r"`(batch_images: .*?)`", document)
    edit(
        folder / "web_tier" / "autoscaler" / "policies.py",
        "from collections.abc",
        "import math\nfrom collections.abc",
    )
    edit(folder / "web_tier" / "autoscaler" / "policies.py", "POLICIES: Mapping", f"{function}\n\nPOLICIES: Mapping")
    edit(
        folder / "web_tier" / "autoscaler" / "policies.py",
        '    "backlog": ',
        '    "batches": batches,\n    "backlog": ',
    )
    edit(folder / "core" / "config.py", 'policy: Literal["backlog",', 'policy: Literal["batches", "backlog",')
    edit(folder / "core" / "config.py", "    images_per_worker: ", f"    {setting}\n    images_per_worker: ")
    edit(folder / "config.yaml", "  images_per_worker: ", "  batch_images: 0\n  images_per_worker: ")


def edit(path: Path, old: str, new: str) -> None:
    """Replace the only `old` in a file."""
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1, f"{path}: {old}"
    path.write_text(text.replace(old, new), encoding="utf-8")
