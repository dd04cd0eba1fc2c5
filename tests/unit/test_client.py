"""The client agrees with the server."""

from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from core.image_open import open_image
from core.images import FORMATS
from core.images import SUFFIXES as ACCEPTED_SUFFIXES
from core.label_names import plain_label as plain_label_of_the_server
from fleetsight_client.journal import ListedFile
from fleetsight_client.media_types import MARKED_BYTES, SUFFIXES, media_type
from fleetsight_client.photos import PhotoReader, read_photo
from fleetsight_client.rows import COLUMNS, plain_label, safe_cell
from tests.support.container_files import coded, container, crop, mirror, turn
from tests.support.hostile_images import STARTS, encoded
from web_tier.results.export import CSV_HEADER
from web_tier.results.export import safe_cell as safe_cell_of_the_server


def test_suffixes_are_those_that_the_server_accepts() -> None:
    assert SUFFIXES == ACCEPTED_SUFFIXES


def test_a_file_without_a_suffix_may_be_of_each_format_that_the_server_accepts() -> None:
    assert [start for start in STARTS if media_type(start) is None] == []


@pytest.mark.parametrize("form", FORMATS)
def test_the_media_type_of_a_file_is_that_of_the_server(form: str) -> None:
    assert media_type(encoded(form)[:MARKED_BYTES]) == FORMATS[form].content_type


def test_columns_of_results_are_those_of_the_server() -> None:
    assert COLUMNS == CSV_HEADER


@given(cell=st.text(alphabet=st.sampled_from("=+-@\"';,\t\n a\uff1d")))
def test_cells_are_escaped_as_the_server_escapes_them(cell: str) -> None:
    assert safe_cell(cell) == safe_cell_of_the_server(cell)


@given(label=st.text(alphabet=st.sampled_from("Stop _-\t\u0308\xdf")))
def test_labels_are_compared_as_the_server_compares_them(label: str) -> None:
    assert plain_label(label) == plain_label_of_the_server(label)


PICTURE = Image.effect_noise((128, 64), 80).convert("RGB")
CROP = crop(Fraction(40), Fraction(20), Fraction(3), Fraction(-2))


@pytest.mark.parametrize("form", ["AVIF", "HEIF"])
@pytest.mark.parametrize("transforms", [[], [turn(1)], [turn(2), mirror(1)], [CROP], [CROP, turn(3)]])
def test_the_size_of_a_picture_is_that_of_the_server_or_empty(
    form: str, transforms: list[bytes], tmp_path: Path
) -> None:
    data = container([coded(form, PICTURE)], transforms)
    (tmp_path / "a").write_bytes(data)
    found, is_known = read_photo(tmp_path / "a"), form == "HEIF" or CROP not in transforms
    with open_image(data) as image:
        assert (found["width"], found["height"]) == (image.size if is_known else (None, None))


def test_images_without_a_size_are_counted_where_it_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "a.avif"
    path.write_bytes(container([coded("AVIF", PICTURE)], [CROP]))
    file = ListedFile(0, path, "a.avif", path.stat().st_size, path.stat().st_mtime_ns)
    for wanted, sentences in ((("camera",), 0), (("width", "height"), 1)):
        reader = PhotoReader(wanted)
        assert reader.read(file) == dict.fromkeys(wanted)
        assert len([*reader.sentences()]) == sentences
