"""True labels from a CSV or from folders: accuracy, columns, and what the job gets."""

import csv
import json
import os
import unicodedata
from pathlib import Path
from typing import Literal

import pytest

from client.tests.support.results_api import REJECTED, Command, Photos, ResultsApi
from fleetsight_client.truth import MAX_PART_BYTES, truth_parts

FILES = {
    "cat/1.jpg": b"cat a", "cat/2.jpg": b"dog b", "Stop_Sign/3.jpg": b"stop-sign c", "dog/4.jpg": b"cat d",
    "dog/5.jpg": b"cat e", "dog/6.jpg": REJECTED,
}  # fmt: skip


def found(file: Path) -> dict[str, tuple[str | None, bool | None]]:
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    return {row["filename"]: (row["truth"], row["correct"]) for row in rows}


def test_folders_are_true_labels(api: ResultsApi, command: Command, photos: Photos, tmp_path: Path) -> None:
    out = tmp_path / "r.jsonl"
    done = command("classify", photos(FILES), "--truth-from-folders", "--out", out)
    assert "Accuracy: 40.0% (2 of 5 right)." in done.stderr
    assert "dog was classified as cat: 2.\ncat was classified as dog: 1." in done.stderr
    assert found(out) == {
        "Stop_Sign/3.jpg": ("Stop_Sign", True), "cat/1.jpg": ("cat", True), "cat/2.jpg": ("cat", False),
        "dog/4.jpg": ("dog", False), "dog/5.jpg": ("dog", False), "dog/6.jpg": ("dog", None),
    }  # fmt: skip
    sent = list(csv.DictReader("".join(api.truths).splitlines()))
    assert {row["image_id"] for row in sent} == set(api.job.images)
    assert sorted(row["truth"] for row in sent) == ["Stop_Sign", "cat", "cat", "dog", "dog"]


def test_labels_that_are_no_class_and_images_in_the_root_are_no_errors(
    api: ResultsApi, command: Command, photos: Photos, tmp_path: Path
) -> None:
    api.no_classes = {"No_Class", "other"}
    files = {"cat/1.jpg": b"cat", "No_Class/2.jpg": b"cat", "No_Class/3.jpg": b"dog", "other/4.jpg": b"cat"}
    folder, out = photos(files | {"5.jpg": b"cat"}), tmp_path / "r.jsonl"
    done = command("classify", folder, "--truth-from-folders", "--out", out)
    assert "Accuracy: 100.0% (1 of 1 right)." in done.stderr
    assert "true label is no class of the model: 3. No_Class (2), other (1)." in done.stderr
    assert "Without a true label: 1." in done.stderr
    assert found(out)["5.jpg"] == (None, None)


@pytest.mark.parametrize(
    "lines",
    [
        "filename,label\ncat/1.jpg,cat\n2.jpg,dog\nphotos/dog/4.jpg,dog\n./dog/5.jpg,cat\nnot/there.jpg,cat\n",
        "label;path\ncat;cat/1.jpg\ndog;2.jpg\ndog;photos/dog/4.jpg\ncat;dog\\5.jpg\n",
        "\ufeffcat/1.jpg\tcat\n2.jpg\tdog\nphotos/dog/4.jpg\tdog\n5.jpg\tcat\n",
        "File_Name,Ground Truth\ncat/1.jpg,cat\n2.jpg,dog\nphotos/dog/4.jpg,dog\n5.jpg,cat\n",
    ],
    ids=["header", "semicolons", "tabs", "utf-16"],
)
def test_a_csv_has_true_labels_by_path_or_by_its_end(
    lines: str, command: Command, photos: Photos, tmp_path: Path
) -> None:
    truth, out = tmp_path / "truth.csv", tmp_path / "r.jsonl"
    truth.write_text(lines, encoding="utf-16" if "File_Name" in lines else "utf-8")
    done = command("classify", photos(FILES), "--truth", truth, "--out", out)
    assert found(out) == {
        "Stop_Sign/3.jpg": (None, None), "cat/1.jpg": ("cat", True), "cat/2.jpg": ("dog", True),
        "dog/4.jpg": ("dog", False), "dog/5.jpg": ("cat", True), "dog/6.jpg": (None, None),
    }  # fmt: skip
    assert "Accuracy: 75.0% (3 of 4 right)." in done.stderr
    assert "Without a true label: 1." in done.stderr
    unused = [line for line in done.stderr.splitlines() if line.startswith("Lines of")]
    assert unused == (["Lines of truth.csv that match no image: 1 (not/there.jpg)."] if "not/there" in lines else [])


def test_a_name_that_may_mean_several_files_sets_no_label(command: Command, photos: Photos, tmp_path: Path) -> None:
    truth, out = tmp_path / "truth.csv", tmp_path / "r.jsonl"
    truth.write_text("a.jpg,cat\n")
    done = command("classify", photos({"x/a.jpg": b"cat", "y/a.jpg": b"dog"}), "--truth", truth, "--out", out)
    assert found(out) == {"x/a.jpg": (None, None), "y/a.jpg": (None, None)}
    assert "Lines of truth.csv that may mean several images: 1 (a.jpg)." in done.stderr


@pytest.mark.parametrize(("form", "other"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_a_name_matches_in_any_unicode_normalization(
    form: Literal["NFC", "NFD"], other: Literal["NFC", "NFD"], command: Command, photos: Photos, tmp_path: Path
) -> None:
    truth, out = tmp_path / "truth.csv", tmp_path / "r.jsonl"
    name = unicodedata.normalize(form, "été/ñandú.jpg")
    truth.write_text(f"{unicodedata.normalize(other, name)},CAFÉ\n", encoding="utf-8")
    done = command("classify", photos({name: "café a".encode()}), "--truth", truth, "--out", out)
    assert found(out) == {name: ("CAFÉ", True)}
    assert "Lines of" not in done.stderr


def test_a_file_of_results_is_a_file_with_true_labels(command: Command, photos: Photos, tmp_path: Path) -> None:
    out, again = tmp_path / "r.csv", tmp_path / "r.jsonl"
    folder = photos({"dog/=1.jpg": b"cat a", "dog/'b.jpg": b"cat b"})
    command("classify", folder, "--truth-from-folders", "--out", out)
    done = command("classify", folder, "--truth", out, "--out", again)
    assert found(again) == {"dog/=1.jpg": ("dog", False), "dog/'b.jpg": ("dog", False)}
    assert "Lines of" not in done.stderr


def test_lines_that_match_no_image_are_counted_and_some_are_named(
    command: Command, photos: Photos, tmp_path: Path
) -> None:
    truth = tmp_path / "truth.csv"
    truth.write_text("1.jpg,cat\n/photos/1.jpg,cat\n" + "".join(f"gone{number}.jpg,cat\n" for number in range(1_200)))
    done = command("classify", photos({"1.jpg": b"cat"}), "--truth", truth)
    named = "/photos/1.jpg, gone0.jpg, gone1.jpg, gone10.jpg, gone100.jpg"
    assert f"Lines of truth.csv that match no image: 1,201 ({named}, …)." in done.stderr


def test_files_have_the_names_of_the_server_and_it_is_said_when_they_differ(
    api: ResultsApi, command: Command, photos: Photos, tmp_path: Path
) -> None:
    folder, truth, out = photos({"a.jpg": b"cat a"}), tmp_path / "truth.csv", tmp_path / "r.jsonl"
    odd = {"b\\c.jpg": "b/c.jpg", " d\t.jpg": "d.jpg", "\u202ee.jpg": "e.jpg", "f\n.jpg": "f.jpg"}
    for name in odd:
        (folder / name).write_bytes(b"cat")
    truth.write_text("".join(f'"{name}",cat\n' for name in odd), encoding="utf-8")
    Path(os.fsdecode(os.fsencode(folder) + b"/g_\xe9.jpg")).write_bytes(b"cat")
    done = command("classify", folder, "--truth", truth, "--out", out)
    labelled = dict.fromkeys(odd.values(), ("cat", True))
    assert found(out) == {"a.jpg": (None, None), "g_\ufffd.jpg": (None, None)} | labelled
    assert "invalid UTF-8 of their names: 5." in done.stderr
    assert {image["filename"] for image in api.job.images.values()} == set(found(out))


def test_a_wrong_file_is_refused_before_anything_is_sent(
    api: ResultsApi, command: Command, photos: Photos, tmp_path: Path
) -> None:
    truth = tmp_path / "truth.csv"
    truth.write_text("only one column\n")
    assert command("classify", photos(FILES), "--truth", truth).exit_code == 2
    assert api.jobs == {}


def test_true_labels_are_sent_in_parts() -> None:
    rows = [(f"{number:026}", "é" * 100) for number in range(12_000)]
    parts = list(truth_parts(iter(rows)))
    assert len(parts) > 1
    assert max(len(part) for part in parts) < 2 * MAX_PART_BYTES
    assert [tuple(row) for part in parts for row in list(csv.reader(part.decode().splitlines()))[1:]] == rows
