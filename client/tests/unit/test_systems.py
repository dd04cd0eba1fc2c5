"""Windows and macOS, where none is: paths by the pure classes of pathlib, consoles and folders by stand-ins."""

import io
import ntpath
import sys
import tomllib
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.tests.support.results_api import Command, Photos, ResultsApi
from fleetsight_client import single_file
from fleetsight_client.folders import FolderError, checked_folders
from fleetsight_client.names import shown_name
from fleetsight_client.sorting import safe_name
from fleetsight_client.systems import (
    extended_path,
    length_of_root,
    plain_path,
    shown_separators,
    state_home,
)
from fleetsight_client.terminal import clean_terminal_output

CLIENT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("folder", "path", "separators", "below"),
    [
        (b"/", b"/a.jpg", b"/", b"a.jpg"),
        (b"/data/x\\", b"/data/x\\/a.jpg", b"/", b"a.jpg"),
        (b"E:\\", b"E:\\DCIM\\a.jpg", b"\\/", b"DCIM\\a.jpg"),
        (b"\\\\?\\C:\\data", b"\\\\?\\C:\\data\\a.jpg", b"\\/", b"a.jpg"),
        (b"\\\\nas\\photos", b"\\\\nas\\photos\\a.jpg", b"\\/", b"a.jpg"),
    ],
)
def test_the_relative_part_of_a_path_is_whole_below_a_folder_and_a_drive(
    folder: bytes, path: bytes, separators: bytes, below: bytes
) -> None:
    assert path[length_of_root(folder, separators) :] == below


def test_names_have_slashes_on_windows_and_backslashes_of_names_elsewhere() -> None:
    assert shown_separators("day 1\\a.jpg", "\\") == shown_name("day 1\\a.jpg") == "day 1/a.jpg"
    assert shown_separators("day 1\\a.jpg", "/") == "day 1\\a.jpg"


@pytest.mark.parametrize(
    ("path", "extended"),
    [
        (PureWindowsPath("C:/photos/day 1"), "\\\\?\\C:\\photos\\day 1"),
        (PureWindowsPath("E:/"), "\\\\?\\E:\\"),
        (PureWindowsPath("//nas/photos/a"), "\\\\?\\UNC\\nas\\photos\\a"),
        (PurePosixPath("/photos"), "/photos"),
    ],
)
def test_long_paths_are_allowed_on_windows_and_shown_as_users_write_them(path: PurePath, extended: str) -> None:
    assert str(extended_path(path)) == extended
    assert extended_path(extended_path(path)) == extended_path(path)
    assert plain_path(extended_path(path)) == str(path)
    assert str(extended_path(path) / "b" / "c.jpg").removeprefix(extended).strip("\\/") == str(
        type(path)("b", "c.jpg")
    )


@pytest.mark.parametrize(
    ("environment", "is_windows", "folder"),
    [
        ({"XDG_STATE_HOME": "/x"}, True, "/x"),
        ({"LOCALAPPDATA": "/local"}, True, "/local"),
        ({"LOCALAPPDATA": "/local"}, False, "/home/u/.local/state"),
        ({}, True, "/home/u/.local/state"),
    ],
)
def test_journals_are_in_the_folder_of_the_system(environment: dict[str, str], is_windows: bool, folder: str) -> None:
    assert state_home(environment, Path("/home/u"), is_windows=is_windows) == Path(folder)


@given(
    label=st.text(max_size=300)
    | st.sampled_from(["con", "NUL .txt", "CONIN$", "COM\u00b9", "a.", " ", "..", "a:b", "x" * 300])
)
def test_a_label_is_the_name_of_one_folder_on_every_system(label: str) -> None:
    name = safe_name(label)
    assert PureWindowsPath(name).parts == PurePosixPath(name).parts == (name,)
    is_reserved = getattr(ntpath, "isreserved", None) or (lambda text: PureWindowsPath(text).is_reserved())
    assert not is_reserved(name)
    assert len(name.encode()) <= 200


def test_folders_of_deleted_images_on_cards_are_not_classified(
    api: ResultsApi, command: Command, photos: Photos
) -> None:
    folder = photos({"DCIM/1.jpg": b"cat", "$RECYCLE.BIN/$R1.jpg": b"dog", "System Volume Information/x.jpg": b"dog"})
    assert "Not sent (hidden): 2." in command("classify", folder).stderr
    assert api.names == {"DCIM/1.jpg": 1}


def test_a_folder_under_two_names_is_refused_where_case_does_not_matter(
    photos: Photos, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = photos({"Day/a.jpg": b"cat"})
    monkeypatch.setattr("fleetsight_client.folders._identity", lambda path: (0, hash(str(path).lower())))
    with pytest.raises(FolderError, match="name only one of them"):
        checked_folders([folder, folder.parent / "PHOTOS" / "DAY"])


def test_labels_that_differ_by_case_overwrite_nothing_where_case_does_not_matter(
    command: Command, photos: Photos, tmp_path: Path
) -> None:
    target = tmp_path / "sorted"
    (target / "Cat").mkdir(parents=True)
    (target / "cat").symlink_to(target / "Cat")
    one, two = photos({"a.jpg": b"Cat 1"}, "one"), photos({"a.jpg": b"cat 2"}, "two")
    assert command("classify", one, "--sort-into", target).exit_code == 0
    done = command("classify", two, "--sort-into", target)
    assert (done.exit_code, "is another file" in done.stderr) == (1, True)
    assert (target / "Cat" / "a.jpg").read_bytes() == b"Cat 1"


@pytest.mark.parametrize(("encoding", "written"), [("cp1252", "utf-8"), ("cp932", "utf-8"), ("latin-1", "latin-1")])
def test_a_pipe_of_windows_gets_utf_8(encoding: str, written: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(pipe, encoding=encoding))
    clean_terminal_output()
    text = "é" if written == "latin-1" else "狐 é"
    sys.stdout.write(text)
    sys.stdout.flush()
    assert pipe.getvalue() == text.encode(written)


def test_the_single_file_has_what_the_package_requires() -> None:
    project = tomllib.loads((CLIENT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert tuple(each.partition(">")[0] for each in project["dependencies"]) == single_file.REQUIRED
