"""Images are sorted into folders by labels of an untrusted server."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.tests.support.results_api import FAILED, REJECTED, Command, Photos
from fleetsight_client.journal import ListedFile
from fleetsight_client.sorting import FAILED_FOLDER, SortedFolder, decision_folder, safe_name


def listed(file: Path, name: str = "") -> ListedFile:
    found = file.stat()
    return ListedFile(0, file, name or file.name, found.st_size, found.st_mtime_ns)


def tree(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("how", ["--copy", "--link"])
def test_each_image_is_in_the_folder_of_its_label(how: str, command: Command, photos: Photos, tmp_path: Path) -> None:
    folder = photos(
        {"a.jpg": b"cat 1", "day/a.jpg": b"cat 2", "b.jpg": REJECTED, "c.jpg": FAILED, "d.jpg": b"_failed"}
    )
    done = command("classify", folder, "--sort-into", tmp_path / "sorted", how)
    assert done.exit_code == 1
    assert tree(tmp_path / "sorted") == {
        "cat/a.jpg": b"cat 1", "cat/day/a.jpg": b"cat 2", "_failed/b.jpg": REJECTED, "_failed/c.jpg": FAILED,
        "_failed_/d.jpg": b"_failed",
    }  # fmt: skip
    assert (tmp_path / "sorted" / "cat" / "a.jpg").samefile(folder / "a.jpg") is (how == "--link")
    assert f"Sorted into {tmp_path / 'sorted'}: 5." in done.stderr
    again = command("classify", folder, "--sort-into", tmp_path / "sorted", how)
    assert f"Sorted into {tmp_path / 'sorted'}: 5." in again.stderr, "a repeat changes nothing"


def test_a_different_file_is_never_overwritten(command: Command, photos: Photos, tmp_path: Path) -> None:
    folder = photos({"a.jpg": b"cat 1", "b.jpg": b"cat 2"})
    other = tmp_path / "sorted" / "cat" / "a.jpg"
    other.parent.mkdir(parents=True)
    other.write_bytes(b"mine")
    done = command("classify", folder, "--sort-into", tmp_path / "sorted")
    assert (done.exit_code, other.read_bytes()) == (1, b"mine")
    assert f"a.jpg was not sorted: {other} is another file" in done.stderr
    assert (tmp_path / "sorted" / "cat" / "b.jpg").read_bytes() == b"cat 2"


def test_nothing_is_written_through_a_link_to_elsewhere(command: Command, photos: Photos, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "sorted").mkdir()
    (tmp_path / "sorted" / "cat").symlink_to(outside)
    done = command("classify", photos({"a.jpg": b"cat", "in/b.jpg": b"cat"}), "--sort-into", tmp_path / "sorted")
    assert (done.exit_code, list(outside.iterdir())) == (1, [])
    assert "a link leads out of" in done.stderr


def test_a_link_in_place_of_the_image_is_left_as_it_is(tmp_path: Path) -> None:
    file, secret = tmp_path / "a.jpg", tmp_path / "secret"
    file.write_bytes(b"cat")
    secret.write_bytes(b"cat")
    folder = SortedFolder(tmp_path / "sorted")
    folder.prepare((tmp_path,))
    (folder.folder / "cat").mkdir()
    (folder.folder / "cat" / "a.jpg").symlink_to(secret)
    folder.add(listed(file), "cat")
    assert folder.counts == {"problem": 1}


def test_an_image_that_changed_after_its_classification_is_not_sorted(tmp_path: Path) -> None:
    file = tmp_path / "a.jpg"
    file.write_bytes(b"cat")
    before = listed(file)
    file.write_bytes(b"other")
    folder = SortedFolder(tmp_path / "sorted")
    folder.prepare((tmp_path,))
    folder.add(before, "cat")
    assert "it has changed since it was classified" in folder.problems[0]
    assert tree(folder.folder) == {}


@given(label=st.text(), name=st.text(min_size=1))
def test_labels_and_names_are_never_paths(label: str, name: str) -> None:
    for safe in (decision_folder(label), safe_name(name)):
        assert safe not in {"", ".", "..", FAILED_FOLDER} or safe == name == FAILED_FOLDER
        assert not set(safe) & set('/\\:*?"<>|\0\n')
        assert not safe.startswith(".")
        assert len(safe.encode(errors="surrogatepass")) <= 200
