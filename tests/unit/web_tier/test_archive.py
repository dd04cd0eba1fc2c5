"""Files that leave the system: names that every file system accepts, and the zip of images in folders by label."""

import re
import unicodedata
from collections.abc import Sequence
from io import BytesIO
from zipfile import ZIP_STORED, ZipFile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.ids import ImageRef, image_id_at, new_id, positioned_id
from core.jobs.models import ImageRecord
from services.errors import NotFoundError
from tests.support.jobs import NOW, done, failed
from web_tier.results.archive import MISSING, PIECE_BYTES, zip_parts
from web_tier.results.export import MAX_NAME_BYTES, UniqueNames, attachment, safe_name
from web_tier.results.query import ImageResult

DEVICES = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9\xb9\xb2\xb3])[ ]*([.].*)?", re.IGNORECASE)
HOSTILE = st.one_of(
    st.text(max_size=300),
    st.text(alphabet='./\\:*?"<>| \t\n\x00conaux1\u202e\u2028\uff0e', max_size=20),
    st.sampled_from(
        ["..", "../../etc/passwd", "C:\\x", "CON", "nul.txt", "com\xb9.jpg", "a. . .", " ", "", "x" * 400 + ".jpg"]
    ),
)


def is_safe(name: str) -> bool:
    """Return whether Windows, macOS and Linux accept a name for one file or folder."""
    return (
        0 < len(name.encode()) <= MAX_NAME_BYTES
        and not set(name) & set('<>:"/\\|?*')
        and not any(unicodedata.category(each) in {"Cc", "Cs", "Zl", "Zp"} for each in name)
        and not name.startswith((".", " "))
        and not name.endswith((".", " "))
        and not DEVICES.fullmatch(name)
    )


def as_file_systems_compare(name: str) -> str:
    return unicodedata.normalize("NFD", name).casefold()


@given(HOSTILE)
def test_any_text_becomes_a_name_that_every_file_system_accepts(text: str) -> None:
    assert is_safe(safe_name(text))
    assert safe_name(safe_name(text)) == safe_name(text)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("IMG_0001.jpg", "IMG_0001.jpg"),
        ("stop sign", "stop sign"),
        (
            "\u0444\u043e\u0442\u043e \u043d\u0430 \u043c\u043e\u0440\u0435.jpg",
            "\u0444\u043e\u0442\u043e \u043d\u0430 \u043c\u043e\u0440\u0435.jpg",
        ),
        ("cat/dog", "cat_dog"),
        ("..", "_"),
        ("aux.jpg", "_aux.jpg"),
        ("photo\u202egpj.exe", "photogpj.exe"),
        ("x" * 300 + ".jpeg", "x" * (MAX_NAME_BYTES - 6) + ".jpeg"),
    ],
)
def test_a_name_changes_only_where_it_must(text: str, name: str) -> None:
    assert safe_name(text) == name


@given(st.lists(HOSTILE, max_size=20))
def test_names_of_one_folder_are_unique_in_any_case_and_stay_safe(texts: list[str]) -> None:
    names = UniqueNames()
    given_names = [names.add(safe_name(text)) for text in texts]
    assert len({as_file_systems_compare(name) for name in given_names}) == len(texts)
    assert all(is_safe(name) for name in given_names)


def test_a_repeated_name_gets_a_number_before_its_extension() -> None:
    names = UniqueNames()
    asked = ("a.jpg", "A.JPG", "a (2).jpg", "a.jpg", "a")
    assert [names.add(name) for name in asked] == ["a.jpg", "A (2).JPG", "a (2) (2).jpg", "a (3).jpg", "a"]


@given(HOSTILE)
def test_a_download_is_named_after_its_job_in_ascii_and_in_full(name: str) -> None:
    names = attachment(name, "01M7", "csv")
    assert re.fullmatch(r"[A-Za-z0-9_.()+-]+[.]csv", names["filename"])
    assert re.fullmatch(r"UTF-8''[A-Za-z0-9_.~%-]+[.]csv", names.get("filename*", "UTF-8''a.csv"))
    assert is_safe(names["filename"].removesuffix(".csv"))


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("holiday photos", {"filename": "holiday-photos.csv"}),
        ('a"; filename=x.exe', {"filename": "a_-filename-x.exe.csv"}),
        ("\u00e9t\u00e9", {"filename": "ete.csv", "filename*": "UTF-8''%C3%A9t%C3%A9.csv"}),
        ("\u0444", {"filename": "01M7.csv", "filename*": "UTF-8''%D1%84.csv"}),
        ("!?", {"filename": "01M7.csv"}),
    ],
)
def test_the_name_of_a_download(name: str, names: dict[str, str]) -> None:
    assert attachment(name, "01M7", "csv") == names


def image(filename: str) -> ImageRecord:
    ref = ImageRef(new_id(), new_id())
    return ImageRecord(ref, filename, "jpg", (10,), NOW)


def labelled(filename: str, label: str) -> ImageResult:
    record = image(filename)
    return ImageResult(record, done(record, label))


def content(record: ImageRecord) -> bytes:
    return record.ref.image_id.encode()


def contents(records: Sequence[ImageRecord]) -> list[bytes]:
    return [content(record) for record in records]


def unpacked(parts: list[bytes]) -> ZipFile:
    archive = ZipFile(BytesIO(b"".join(parts)))
    assert archive.testzip() is None
    return archive


def test_images_are_in_folders_by_label_and_equal_names_have_numbers() -> None:
    results = [
        labelled("day1/IMG_1.jpg", "cat"),
        labelled("day2/img_1.JPG", "cat"),
        labelled("C:\\me\\IMG_1.jpg", "Cat"),
        labelled("x.jpg", "_failed"),
        labelled("../../x.jpg", ".."),
    ]
    broken, late = image("b.jpg"), image("c.jpg")
    results += [ImageResult(broken, failed(broken)), ImageResult(late, None)]
    archive = unpacked(list(zip_parts(results, contents)))
    assert archive.namelist() == [
        "cat/IMG_1.jpg",
        "cat/img_1 (2).JPG",
        "Cat (2)/IMG_1.jpg",
        "_failed (2)/x.jpg",
        "_/x.jpg",
        "_failed/b.jpg",
        "_waiting/c.jpg",
    ]
    assert [archive.read(name) for name in archive.namelist()] == [content(each.record) for each in results]
    assert {entry.compress_type for entry in archive.infolist()} == {ZIP_STORED}
    assert {entry.flag_bits & 8 for entry in archive.infolist()} == {0}, "sizes are in front of the content"


def packs(*sizes: int) -> list[ImageResult]:
    """Labelled images of packs of these sizes, each named by the number of its pack."""
    job_id = new_id()
    ids = [(number, size, positioned_id(job_id, 100 * number)) for number, size in enumerate(sizes)]
    records = [
        ImageRecord(ImageRef(job_id, image_id_at(pack_id, place)), f"{number}.jpg", "jpg", (10,) * size, NOW)
        for number, size, pack_id in ids
        for place in range(size)
    ]
    return [ImageResult(record, done(record, "\u0444")) for record in records]


def test_a_pack_that_is_no_longer_stored_is_named_and_stops_nothing() -> None:
    def read(records: Sequence[ImageRecord]) -> list[bytes]:
        if records[0].filename == "1.jpg":
            raise NotFoundError("gone")
        return contents(records)

    archive = unpacked(list(zip_parts(packs(1, 2, 1), read)))
    assert archive.namelist() == ["\u0444/0.jpg", "\u0444/2.jpg", MISSING]
    assert archive.read(MISSING).decode().splitlines()[2:] == ["\u0444/1.jpg", "\u0444/1 (2).jpg"]


def test_a_zip_is_read_pack_by_pack_and_sent_in_small_pieces() -> None:
    big = bytes(3 * PIECE_BYTES + 1)
    read_names: list[list[str]] = []

    def read(records: Sequence[ImageRecord]) -> list[bytes]:
        read_names.append([record.filename for record in records])
        return [big] * len(records)

    parts = zip_parts(packs(2, 1), read)
    first = [next(parts) for _ in range(8)]
    assert read_names == [["0.jpg", "0.jpg"]], "the second pack is read once the first one is sent"
    rest = list(parts)
    assert max(map(len, first + rest)) <= PIECE_BYTES
    assert unpacked(first + rest).read("\u0444/1.jpg") == big


def test_a_job_without_images_has_an_empty_zip() -> None:
    assert unpacked(list(zip_parts([], contents))).namelist() == []


@given(st.lists(st.tuples(HOSTILE, HOSTILE), max_size=8))
def test_no_name_or_label_leaves_its_folder_or_hides_another_image(pairs: list[tuple[str, str]]) -> None:
    results = [labelled(filename, label or "x") for filename, label in pairs]
    archive = unpacked(list(zip_parts(results, contents)))
    paths = archive.namelist()
    assert len({as_file_systems_compare(path) for path in paths}) == len(pairs)
    for path in paths:
        folder, name = path.split("/")
        assert is_safe(folder)
        assert is_safe(name)
