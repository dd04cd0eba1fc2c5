"""What is known before anything is sent, and smaller copies that are sent."""

import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from client.tests.support.photos import photo
from client.tests.support.results_api import Command, Photos, ResultsApi
from fleetsight_client.estimates import note_upload_rate, upload_rate
from fleetsight_client.shrinking import MAX_PIXELS, Shrinker


def jpeg(width: int, height: int, mode: str = "RGB", **options: Any) -> bytes:
    file = io.BytesIO()
    Image.effect_noise((width, height), 90).convert(mode).save(file, "JPEG", **options)
    return file.getvalue()


def test_an_estimate_counts_files_and_dates_and_sends_nothing(
    api: ResultsApi, command: Command, photos: Photos, url: str
) -> None:
    old, new = (photo(details={0x9003: f"{year}:05:01 06:00:00"}) for year in (2019, 2024))
    reset = photo(details={0x9003: "2000:01:01 00:00:00"})
    files = {"a/1.jpg": old, "a/2.jpg": new, "b/3.JPG": new, "b/4.jpg": reset, "b/5.png": b"cat", "b/6.png": b"dog"}
    folder = photos(files | {"b/7.png": b"x" * 1_000_001, ".x.jpg": b"", "n.txt": b""})
    shown = command("estimate", folder)
    assert (shown.exit_code, api.jobs) == (0, {}), shown.output
    size = sum(map(len, files.values()))
    assert shown.stdout.splitlines() == [
        f"Images: 6 with {size / 1e6:,.1f} MB (4 jpg, 2 png).",
        "Too large for the server: 1.",
        "Dates: 2019-05-01 to 2024-05-01, 1 that cannot be right; 2 without one.",
        "Upload: unknown, since no upload to this server was measured yet.",
        "Classification: about 4 min, if sent at once, for 0.41 US dollars.",
        "Would not be sent (hidden): 1.",
        "Would not be sent (not an image by name): 1.",
    ]
    by = command("estimate", folder, "--finish-by", "08:00").stdout.splitlines()
    assert by[4:6] == [
        "Classification: about 4 min, if sent at once, for 0.41 US dollars.",
        "Classification by 08:00: about 6.7 h, if sent at once, for 0.11 US dollars.",
    ]
    note_upload_rate(url, 10_000_000, 5.0)
    assert "Upload: about 1 s at 2.0 MB/s, as last time." in command("estimate", folder).stdout


def test_an_estimate_of_a_manifest_names_missing_files(command: Command, photos: Photos) -> None:
    folder = photos({"a.jpg": b"cat", "list.csv": b"path\na.jpg\nb.jpg\n"})
    shown = command("estimate", "--manifest", folder / "list.csv").stdout
    assert "Images: 1 with" in shown
    assert "Named and not there: 1." in shown
    (folder / "a.jpg").unlink()
    shown = command("estimate", "--manifest", folder / "list.csv").stdout
    assert shown.splitlines() == ["Images: 0 with 0.0 MB.", "Named and not there: 2."]
    assert command("estimate").exit_code == 2


def test_the_rate_of_a_long_upload_is_remembered_by_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert upload_rate("http://a") is None
    for url, size, seconds in (("http://a", 3_000_000, 2.0), ("http://b", 9_000_000, 1.0), ("http://a", 10, 9.0)):
        note_upload_rate(url, size, seconds)
    assert (upload_rate("http://a"), upload_rate("http://b")) == (1.5e6, 9e6)
    (tmp_path / "fleetsight" / "upload-rates.json").write_text("[")
    assert upload_rate("http://a") is None


@pytest.mark.parametrize(
    ("size", "side", "small"),
    [
        ((200, 100), 10, (100, 50)),
        ((200, 100), 40, (160, 80)),
        ((200, 100), 60, None),
        ((100, 100), 10, None),
        ((MAX_PIXELS, 2), 1, None),
    ],
)
def test_a_copy_has_twice_the_pixels_that_a_model_sees(
    size: tuple[int, int], side: int, small: tuple[int, int] | None
) -> None:
    assert Shrinker(side, 100).size(*size) == small


def test_a_large_jpeg_is_sent_smaller_upright_and_without_its_place(
    api: ResultsApi, command: Command, photos: Photos, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = dict[str, bytes]()
    monkeypatch.setattr("fleetsight_client.shrinking.MAX_SIDE", 100)
    monkeypatch.setattr(
        "client.tests.support.results_api.result_of",
        lambda image_id, name, content: (
            sent.update({name: content})
            or {"image_id": image_id, "filename": name, "status": "done", "label": "cat", "score": 1.0}
        ),
    )
    exif = Image.Exif()
    exif[0x0112] = 6
    exif.get_ifd(0x8825)[1] = "N"
    large, small = jpeg(300, 200, exif=exif), jpeg(90, 60)
    assert command("classify", photos({"large.jpg": large, "small.jpg": small}), "--shrink").exit_code == 0
    assert sent["small.jpg"] == small
    with Image.open(io.BytesIO(sent["large.jpg"])) as image:
        # 64 pixels of the model named `fine`, twice
        assert (image.size, dict(image.getexif())) == ((128, 192), {})
    assert len(sent["large.jpg"]) < len(large)


@pytest.mark.parametrize(
    "content",
    [
        jpeg(300, 200)[:-40],
        jpeg(300, 200, "CMYK"),
        jpeg(300, 200, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x63\0\0\0\0\0\0"),
        b"\xff\xd8 no photo \xff\xd9",
        b"cat",
    ],
    ids=["cut", "cmyk", "orientation 99", "damaged", "text"],
)
def test_what_may_look_different_when_drawn_again_is_sent_as_it_is(content: bytes) -> None:
    assert Shrinker(10, 100).shrunk(content) == content


def test_a_server_that_does_not_say_what_its_models_see_gets_no_smaller_copies(
    api: ResultsApi, command: Command, photos: Photos
) -> None:
    done = command("classify", photos({"a.jpg": jpeg(9, 9)}), "--shrink", "--model", "unknown")
    assert (done.exit_code, api.jobs) == (2, {})
    assert "leave --shrink out" in done.output
