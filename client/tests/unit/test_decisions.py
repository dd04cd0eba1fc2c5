"""The border of doubt: read from a number or a file, learned from a review, and the same in every output."""

import csv
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.tests.support.results_api import Command, Photos, ResultsApi, problem
from fleetsight_client.decisions import (
    MAX_LABELS,
    MIN_REVIEWED,
    MinScoreError,
    MinScores,
    learn_min_scores,
    read_labels,
    read_min_scores,
)
from fleetsight_client.tables import TableError, read_table

FILE = """\
# learned
min_score: 0.8
labels:
  red fox: 95%   # often wrong
  'no': 0.6
  "a: \\"b\\"": 0.7
"""
SCORES = MinScores(0.8, {"red fox": 0.95, "no": 0.6, 'a: "b"': 0.7})


def test_scores_are_read_from_a_number_and_from_a_file_that_is_written_alike(tmp_path: Path) -> None:
    file = tmp_path / "scores.yaml"
    assert read_min_scores("0.8") == read_min_scores("80%") == {"min_score": 0.8}
    for text in (FILE, "\n".join(SCORES.yaml())):
        for encoding in ("utf-8", "utf-8-sig", "utf-16"):  # Windows' editors begin a file with a mark
            file.write_text(text, encoding=encoding)
            assert read_min_scores(str(file)) == SCORES.fields
    file.write_text("labels:\n")
    assert read_min_scores(str(file)) == {"label_min_scores": {}}, "only what is stated"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_pipe_is_read_once(encoding: str) -> None:
    for text, read, found in [
        (FILE, read_min_scores, SCORES.fields),
        ("fox\nelk\n", lambda name: read_labels(Path(name)), ["elk", "fox"]),
        ("a;b\n1;2\n", lambda name: list(read_table(Path(name))), [(1, ["a", "b"]), (2, ["1", "2"])]),
    ]:
        reader, writer = os.pipe()
        os.write(writer, text.encode(encoding))
        os.close(writer)
        assert read(f"/dev/fd/{reader}") == found
        os.close(reader)


@pytest.mark.parametrize(
    "line", ["fox: 0.9", "labels: fox", "labels:\n fox", "labels:\n fox: 2", "min_score: x", "- a"]
)
def test_a_file_with_another_line_is_refused_with_its_number(line: str, tmp_path: Path) -> None:
    file = tmp_path / "scores.yaml"
    file.write_text(f"# scores\n{line}\n", encoding="utf-8")
    with pytest.raises(MinScoreError, match=rf"scores.yaml, line {2 + line.count(chr(10))}: write 'min_score: 0.8'"):
        read_min_scores(str(file))


def test_what_is_no_score_and_no_file_is_said_and_so_is_a_file_that_is_no_text(tmp_path: Path) -> None:
    with pytest.raises(MinScoreError, match=r"^8 is no score from 0 to 1, and no file$"):
        read_min_scores("8")
    (file := tmp_path / "scores.yaml").write_bytes(b"min_score: 0.8\xff")
    (empty := tmp_path / "empty.yaml").write_text("# scores\n")
    with pytest.raises(MinScoreError, match="has no score: write"):
        read_min_scores(str(empty))
    for read in (lambda: read_min_scores(str(file)), lambda: read_labels(file)):
        with pytest.raises(TableError, match="is no text in UTF-8 or UTF-16"):
            read()


def test_scores_of_more_labels_than_a_job_takes_are_refused_and_never_learned(tmp_path: Path) -> None:
    labels = [f"species {at}" for at in range(MAX_LABELS + 2)]
    review = [{"label": label, "score": 0.9, "correct": True} for label in labels * MIN_REVIEWED]
    learned = learn_min_scores([*review, *review[1:]], 0.9)
    assert {*labels} - {*learned.scores.labels} >= {labels[0]}, "the one with the fewest images"
    assert len(learned.scores.labels) == MAX_LABELS
    assert f"since a job takes {MAX_LABELS} others: 2." in " ".join(learned.sentences())
    file = tmp_path / "scores.yaml"
    file.write_text("\n".join(MinScores(labels=dict.fromkeys(labels, 0.9)).yaml()))
    with pytest.raises(MinScoreError, match="has scores of 202 labels: keep at most 200"):
        read_min_scores(str(file))


REVIEW = st.lists(
    st.tuples(st.sampled_from(["fox", "hare", "owl"]), st.integers(0, 10), st.booleans()), min_size=MIN_REVIEWED
)


@given(REVIEW, st.sampled_from([0.5, 0.8, 0.95]))
def test_the_wanted_share_of_a_review_is_right_from_the_learned_score_on_and_no_lower_one_does(
    found: list[tuple[str, int, bool]], precision: float
) -> None:
    review = [{"label": label, "score": score / 10, "correct": right} for label, score, right in found]
    learned = learn_min_scores([*review, {"label": "fox", "score": 0.9, "correct": None}], precision)
    groups = {label: [each for each in found if each[0] == label] for label in ("fox", "hare", "owl")}
    own = {label: each for label, each in groups.items() if len(each) >= MIN_REVIEWED}
    assert {*learned.scores.labels} == {*own}
    for border, images in [
        (learned.scores.every, found),
        *((learned.scores.labels[each], own[each]) for each in own),
    ]:

        def is_reached(score: float, images: list[tuple[str, int, bool]] = images) -> bool:
            right = [each[2] for each in images if each[1] / 10 >= score]
            return len(right) >= MIN_REVIEWED and sum(right) >= precision * len(right)

        assert border == 1.0 or is_reached(border)
        assert not any(is_reached(each[1] / 10) for each in images if each[1] / 10 < border)


def test_a_label_that_is_always_right_with_the_highest_score_is_not_one_that_never_is() -> None:
    review = [
        {"label": label, "score": 1.0, "correct": right} for label, right in (("fox", True), ("hare", False))
    ] * MIN_REVIEWED
    learned = learn_min_scores(review, 0.9)
    assert learned.scores.labels == {"fox": 1.0, "hare": 1.0}
    assert "No score of these labels is right often enough: hare." in [*learned.sentences()]


def test_too_few_reviewed_images_teach_nothing() -> None:
    review = [{"label": "fox", "score": 0.9, "correct": True}] * (MIN_REVIEWED - 1)
    with pytest.raises(MinScoreError, match=f"only {MIN_REVIEWED - 1} images have a true label"):
        learn_min_scores(review, 0.9)


def test_a_review_gives_the_file_that_a_classification_takes(
    api: ResultsApi, command: Command, tmp_path: Path
) -> None:
    api.sources["s3://photos"] = {f"{at}.jpg": b"cat" for at in range(MIN_REVIEWED)}
    command("classify", "--source", "s3://photos")
    for image in api.job.images.values():
        image["correct"] = True
    learned = command("min-scores", *api.jobs, "--precision", "90%")
    assert (learned.exit_code, learned.stdout) == (0, 'min_score: 0.9\nlabels:\n  "cat": 0.9\n')
    assert "Reviewed images: 20; sure: 20, 100.0% of them right." in learned.stderr
    (tmp_path / "scores.yaml").write_text(learned.stdout)
    assert command("min-scores", *api.jobs, "--set", tmp_path / "scores.yaml").exit_code == 0
    assert (api.job.wanted["min_score"], api.job.wanted["label_min_scores"]) == (0.9, {"cat": 0.9})
    assert command("min-scores", *api.jobs, "--set", "70%").exit_code == 0
    assert (api.job.wanted["min_score"], api.job.wanted["label_min_scores"]) == (0.7, {"cat": 0.9})


def test_unsure_is_a_label_of_its_own_in_every_output(
    api: ResultsApi, command: Command, photos: Photos, tmp_path: Path
) -> None:
    folder, scores = photos({"day/a.jpg": b"cat", "day/b.jpg": b"fox"}), tmp_path / "scores.yaml"
    scores.write_text("labels:\n  fox: 0.95\n")
    api.unsure = {"day/b.jpg"}
    for kind in ("csv", "jsonl", "md.json", "labelstudio.json"):
        sorted_into = tmp_path / kind
        done = command(
            *("classify", folder, "--min-score", scores, "--sort-into", sorted_into, "--out", tmp_path / f"r.{kind}")
        )
        assert done.exit_code == 0, done.output
        assert "        1  unsure" in done.stderr
        files = {file.relative_to(sorted_into).as_posix() for file in sorted_into.rglob("*.jpg")}
        assert files == {"cat/day/a.jpg", "_unsure/day/b.jpg"}
    assert all(each.wanted["label_min_scores"] == {"fox": 0.95} for each in api.jobs.values())
    with (tmp_path / "r.csv").open(newline="") as lines:
        assert [(each["label"], each["decision"]) for each in csv.DictReader(lines)] == [
            ("cat", "cat"),
            ("fox", "unsure"),
        ]
    objects = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    assert [each["decision"] for each in objects] == ["cat", "unsure"]
    boxes = [each["detections"][0] for each in json.loads((tmp_path / "r.md.json").read_text())["images"]]
    assert [each["category"] for each in boxes] == ["1", "4"]
    tasks = json.loads((tmp_path / "r.labelstudio.json").read_text())
    assert [each["data"]["decision"] for each in tasks] == ["cat", "unsure"]
    options = ("--group-by", "folder", "--min-score", "0.95", "--sort-into", tmp_path / "events")
    assert "Events with unsure: 1." in command("classify", folder, *options).stderr
    assert {each.name for each in (tmp_path / "events").iterdir()} == {"_unsure"}


def test_the_labels_that_can_occur_are_those_of_the_job_and_of_each_command_that_resumes_it(
    api: ResultsApi, command: Command, photos: Photos, tmp_path: Path
) -> None:
    folder, only = photos({f"{number}.jpg": b"cat" for number in range(3)}), tmp_path / "only.txt"
    only.write_text("owl\n\n cat\nowl\n", encoding="utf-16")
    api.faults = [lambda: problem(429, "the day's quota is used up", "quota-exceeded", Retry_After="7200")]
    assert command("classify", folder, "--only", only).exit_code == 2
    assert api.job.wanted["labels"] == ["cat", "owl"]
    other = tmp_path / "other.txt"
    other.write_text("cat\nfox\n")
    for options in (("--only", other), ()):
        refused = command("classify", folder, "--resume", *options)
        assert (refused.exit_code, "--only names other labels than before" in refused.output) == (2, True)
    other.write_text("cat\nowl\n")
    assert command("classify", folder, "--resume", "--only", other).exit_code == 0
    assert sum(api.names.values()) == 3, "each image was accepted once"
    other.write_text("\n")
    assert "has no label: write one on each line" in command("classify", folder, "--only", other).output
    api.sources["s3://photos/day"] = {"a.jpg": b"cat"}
    assert command("classify", "--source", "s3://photos/day", "--only", only).exit_code == 0
    assert [job.wanted.get("labels") for job in api.jobs.values()] == [["cat", "owl"]] * 2
