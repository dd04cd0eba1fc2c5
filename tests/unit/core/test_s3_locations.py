"""Locations in S3 that users name: parsed strictly, and compared by whole folders."""

import pytest

from core.s3_locations import MAX_PREFIX_BYTES, S3Location, matches_pattern


@pytest.mark.parametrize(
    ("text", "bucket", "prefix"),
    [
        ("s3://photos", "photos", ""),
        ("s3://photos/", "photos", ""),
        ("s3://my.photos-1/day 1/ä", "my.photos-1", "day 1/ä/"),
        ("s3://photos/day1/", "photos", "day1/"),
    ],
)
def test_a_location_is_a_bucket_or_a_folder_of_it(text: str, bucket: str, prefix: str) -> None:
    location = S3Location.parse(text)
    assert location == S3Location(bucket, prefix)
    assert S3Location.parse(str(location)) == location


@pytest.mark.parametrize(
    "text",
    [
        "",
        "s3://",
        "photos/day1",
        "S3://photos",
        "https://photos.s3.amazonaws.com/day1",
        "s3://Photos",
        "s3://ab",
        "s3://a..b",
        "s3://-photos",
        "s3://photos_1",
        "s3://192.168.1.1/day1",
        "s3://user@photos",
        "s3://xn--photos",
        "s3://photos--x-s3",
        "s3://point-s3alias",
        f"s3://{'b' * 64}",
        "s3://photos//day1",
        "s3://photos/../other",
        "s3://photos/day1/..",
        "s3://photos/./day1",
        "s3://photos/day1//",
        "s3://photos/a\nb",
        "s3://photos/\u202egpj",
        f"s3://photos/{'a' * (MAX_PREFIX_BYTES + 1)}",
        "s3://photos/\ud800",
    ],
)
def test_any_other_text_is_refused_with_the_reason(text: str) -> None:
    with pytest.raises(ValueError, match=r"S3|bucket|prefix"):
        S3Location.parse(text)


@pytest.mark.parametrize(
    ("outer", "inner", "is_inside"),
    [
        ("s3://b/data", "s3://b/data", True),
        ("s3://b/data/", "s3://b/data/day1", True),
        ("s3://b", "s3://b/data", True),
        ("s3://b/data", "s3://b/database", False),
        ("s3://b/data", "s3://b", False),
        ("s3://b/data", "s3://bb/data", False),
        ("s3://bbb", "s3://bbb2", False),
    ],
)
def test_a_location_contains_whole_folders_only(outer: str, inner: str, is_inside: bool) -> None:
    names = [each.replace("s3://b", "s3://bucket", 1) for each in (outer, inner)]
    assert S3Location.parse(names[0]).contains(S3Location.parse(names[1])) is is_inside


@pytest.mark.parametrize(
    ("pattern", "matched"),
    [
        ("*.jpg", ["a.jpg"]),
        ("**/*.jpg", ["a.jpg", "x/a.jpg", "x/y/a.jpg"]),
        ("x/**", ["x/a.jpg", "x/b.png", "x/y/a.jpg"]),
        ("x/**/a.jpg", ["x/a.jpg", "x/y/a.jpg"]),
        ("**/y/**", ["x/y/a.jpg"]),
        ("?/[ab].*", ["x/a.jpg", "x/b.png"]),
        ("**", ["a.jpg", "x/a.jpg", "x/b.png", "x/y/a.jpg"]),
        ("x", []),
        ("x/y/a.jpg/**/z", []),
        ("X/*", []),
    ],
)
def test_a_pattern_matches_names_part_by_part(pattern: str, matched: list[str]) -> None:
    names = ["a.jpg", "x/a.jpg", "x/b.png", "x/y/a.jpg"]
    assert [name for name in names if matches_pattern(name, pattern)] == matched


@pytest.mark.parametrize(("name", "pattern"), [("a/" * 400 + "b", "**/a/" * 40 + "c"), ("a" * 900, "*a" * 99 + "b")])
def test_a_hostile_pattern_does_not_take_exponential_time(name: str, pattern: str) -> None:
    assert not matches_pattern(name, pattern)
