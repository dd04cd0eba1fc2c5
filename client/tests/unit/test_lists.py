"""Files, patterns, lists and manifests: what they name is classified once, and their columns come back as text."""

import csv
import json
import os
from pathlib import Path

import pytest

from client.tests.support.results_api import Command, Photos, ResultsApi

FILES = {"site a/1.jpg": b"cat", "site a/2.jpg": b"dog", "b/3.png": b"elk", "b/notes.csv": b"x", "b/.4.jpg": b"cat"}


def written(out: Path) -> list[dict[str, str]]:
    with out.open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["photos/b/3.png"], ["3.png"]),
        (["photos/b/3.png", "photos/site a/1.jpg"], ["b/3.png", "site a/1.jpg"]),
        (["photos/site a/1.jpg", "photos/site a/*.jpg"], ["1.jpg", "2.jpg"]),
        (["photos/*/[13].*"], ["b/3.png", "site a/1.jpg"]),
        (["list.txt"], ["photos/b/3.png", "photos/gone.jpg", "photos/site a/2.jpg"]),
        (["windows.txt"], ["photos/b/3.png", "photos/gone.jpg", "photos/site a/2.jpg"]),
        (["photos/b/notes.csv"], ["notes.csv"]),
    ],
)
def test_files_patterns_and_lists_name_what_is_classified(
    arguments: list[str],
    names: list[str],
    command: Command,
    photos: Photos,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(photos(FILES).parent)
    paths = "photos/b/3.png\n\nphotos\\site a\\2.jpg\r\nphotos/gone.jpg\n"
    Path("list.txt").write_text(paths, encoding="utf-8-sig")
    Path("windows.txt").write_text(paths, encoding="utf-16")
    done = command("classify", *arguments, "--out", tmp_path / "r.csv")
    assert [row["filename"] for row in written(tmp_path / "r.csv")] == names, done.output
    missing = [(row["status"], row["error_code"], row["bytes"]) for row in written(tmp_path / "r.csv")][1:2]
    assert missing == [("rejected", "no_file", "")] or "photos/gone.jpg" not in names


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["photos/9.jpg"], "photos/9.jpg does not exist"),
        (["photos/*.gif"], "no file matches photos/*.gif"),
        (["photos/b/3.png", "photos"], "photos is a folder: name folders only, or files only"),
        (["photos/b/3.png", "--watch"], "--watch goes with folders only"),
        (["photos", "--manifest", "photos/b/notes.csv"], "Give folders, --manifest"),
        (["--manifest", "photos/b/notes.csv"], "line 1: name the column of files"),
    ],
)
def test_wrong_lists_are_refused_before_anything_is_sent(
    arguments: list[str],
    reason: str,
    api: ResultsApi,
    command: Command,
    photos: Photos,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(photos(FILES).parent)
    done = command("classify", *arguments)
    assert (done.exit_code, api.jobs) == (2, {})
    assert reason in done.output


def test_a_pattern_follows_a_link_only_where_it_names_it(command: Command, photos: Photos, tmp_path: Path) -> None:
    folder, out = photos(FILES | {"@eaDir/3.png": b"elk", ".trash/3.png": b"elk"}), tmp_path / "r.csv"
    (folder / "latest").symlink_to(folder / "b")
    (folder / "b" / "loop").symlink_to(folder)
    done = command("classify", f"{folder}/**/*.png", "--out", out)
    assert [row["filename"] for row in written(out)] == ["b/3.png"]
    assert "Not sent (hidden): 2." in done.stderr
    assert command("classify", f"{folder}/latest/*.png", "--out", out).exit_code == 0
    assert len(written(out)) == 1


def test_a_list_with_another_thing_than_a_file_does_not_block(
    command: Command, photos: Photos, tmp_path: Path
) -> None:
    folder = photos({"list.csv": b"path\na.jpg\n."})
    os.mkfifo(folder / "a.jpg")
    command("classify", "--manifest", folder / "list.csv", "--out", tmp_path / "r.csv", "--columns", "width")
    assert [row["error_code"] for row in written(tmp_path / "r.csv")] == ["no_file", "no_file"]


@pytest.mark.parametrize("text", ["sep=;\r\npath;site\r\n3.png;a,b,c", "\ufeffSEP=|\npath|site\n3.png|a,b,c\n"])
def test_a_manifest_may_name_its_separator_for_excel(
    text: str, command: Command, photos: Photos, tmp_path: Path
) -> None:
    (folder := photos(FILES)).joinpath("b/list.csv").write_text(text)
    done = command("classify", "--manifest", folder / "b/list.csv", "--out", tmp_path / "r.csv")
    assert done.exit_code == 0, done.output
    assert [(row["filename"], row["site"]) for row in written(tmp_path / "r.csv")] == [("3.png", "a,b,c")]


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_columns_of_a_manifest_come_back_as_text_in_every_format(
    suffix: str, command: Command, photos: Photos, tmp_path: Path
) -> None:
    manifest, out = photos(FILES).parent / "list.csv", tmp_path / f"r.{suffix}"
    manifest.write_text(
        "site;File Path;=patient\n=1+1;photos/site a/1.jpg;007\n../up;photos\\b\\3.png;\n-4.5;photos/gone.jpg\n"
    )
    assert command("classify", "--manifest", manifest, "--out", out).exit_code == 1
    if suffix == "csv":
        found = written(out)
        assert [*found[0]][-3:] == ["site", "File Path", "'=patient"]
        assert [row["site"] for row in found] == ["../up", "-4.5", "'=1+1"]
        assert [row["'=patient"] for row in found] == ["", "", "007"]
        return
    if suffix == "jsonl":
        lines = [json.loads(line) for line in out.read_text().splitlines()]
    else:
        parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is an option of the client")
        lines = parquet.read_table(out).to_pylist()
    assert [(line["filename"], line["status"], line["site"], line["=patient"]) for line in lines] == [
        ("photos/b/3.png", "done", "../up", None),
        ("photos/gone.jpg", "rejected", "-4.5", None),
        ("photos/site a/1.jpg", "done", "=1+1", "007"),
    ]
    assert [line["File Path"] for line in lines] == ["photos\\b\\3.png", "photos/gone.jpg", "photos/site a/1.jpg"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is empty"),
        ("path,label\na.jpg,cat\n", "line 1: rename the column 'label'"),
        ("path,site,site\na.jpg,1,2\n", "line 1: rename the column 'site'"),
        ("path,\na.jpg,1\n", "line 1: rename the column ''"),
        ("path,site\na.jpg,1\n./b/../a.jpg,2\n", "line 3 names ./b/../a.jpg again: give each file one line"),
        ("path,site\n,1\n", "line 2: write a path"),
        ("path,site\na.jpg,1,2\n", "line 2: it has more cells"),
        ("path,site\ns3://photos/a.jpg,1\n", "line 2: add --source"),
    ],
)
def test_a_manifest_that_would_mix_up_files_or_columns_is_refused(
    text: str, reason: str, api: ResultsApi, command: Command, tmp_path: Path
) -> None:
    (tmp_path / "list.csv").write_text(text)
    done = command("classify", "--manifest", tmp_path / "list.csv", "--out", tmp_path / "r.csv", "--columns", "width")
    assert (done.exit_code, api.jobs) == (2, {})
    assert reason in done.output


def test_a_manifest_is_resumed_and_refused_if_its_files_are_elsewhere(
    api: ResultsApi, command: Command, photos: Photos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = photos(FILES), tmp_path / "r.csv"
    (folder / "list.csv").write_text("path,site\nb/3.png,north\n")
    options = ("--manifest", folder / "list.csv", "--out", out)
    with monkeypatch.context() as patch:
        patch.setattr("fleetsight_client.output.ResultRowsFile.write", lambda *_: (_ for _ in ()).throw(OSError))
        assert isinstance(command("classify", *options).exception, OSError)
    assert "--resume" in command("classify", *options).output
    (tmp_path / "9.jpg").write_bytes(b"cat")
    (folder / "list.csv").write_text("path,site\nb/3.png,south\n../9.jpg,east\n")
    assert "the list names other files than before" in command("classify", *options, "--resume").output
    (folder / "list.csv").write_text("path,site\nb/3.png,south\n")
    assert command("classify", *options, "--resume").exit_code == 0
    assert [(row["filename"], row["site"]) for row in written(out)] == [("b/3.png", "south")]
    assert api.names == {"b/3.png": 1}


def test_a_manifest_of_addresses_gives_its_columns_to_images_in_s3(
    api: ResultsApi, command: Command, tmp_path: Path
) -> None:
    api.sources["s3://photos/day1"] = {"a.jpg": b"cat", "b/c.jpg": b"dog", "b/d.jpg": b"elk"}
    (tmp_path / "list.csv").write_text(
        "path,site\ns3://photos/day1/a.jpg,north\nb/c.jpg,south\ns3://photos/day2/a.jpg,x\n"
    )
    done = command("classify", "--source", "s3://photos/day1/**/*.jpg", "--manifest", tmp_path / "list.csv", "--out",
                   tmp_path / "r.csv")  # fmt: skip
    assert done.exit_code == 0, done.output
    assert [(row["filename"], row["site"]) for row in written(tmp_path / "r.csv")] == [
        ("a.jpg", "north"), ("b/c.jpg", "south"), ("b/d.jpg", ""),
    ]  # fmt: skip
    assert "Lines of the manifest without an image: 1. The first: s3://photos/day2/a.jpg." in done.stderr
    assert "Images without a line of the manifest: 1." in done.stderr
    assert api.job.pattern == "**/*.jpg"
