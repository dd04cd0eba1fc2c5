"""The client and the commands of a checkout agree with the server and with each other."""

from fractions import Fraction
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import scripts.cli
from core.image_open import open_image
from core.images import SUFFIXES as ACCEPTED_SUFFIXES
from core.label_names import plain_label as plain_label_of_the_server
from fleetsight_client.cli import COMMANDS
from fleetsight_client.folders import SUFFIXES
from fleetsight_client.journal import ListedFile
from fleetsight_client.photos import PhotoReader, read_photo
from fleetsight_client.rows import COLUMNS, plain_label, safe_cell
from tests.support.container_files import coded, container, crop, mirror, turn
from web_tier.results.export import CSV_HEADER
from web_tier.results.export import safe_cell as safe_cell_of_the_server


def test_suffixes_are_those_that_the_server_accepts() -> None:
    assert SUFFIXES == ACCEPTED_SUFFIXES


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


@pytest.mark.parametrize("group", [(), ("fleet",), ("model",), ("dead-letters",), ("users",), ("aws",)])
def test_lists_of_commands_have_whole_sentences(group: tuple[str, ...]) -> None:
    shown = CliRunner().invoke(scripts.cli.fleetsight, [*group, "-h"]).output
    assert "..." not in shown.partition("Options:")[2]


def test_the_commands_of_a_checkout_begin_with_those_of_the_client() -> None:
    shown = CliRunner().invoke(scripts.cli.fleetsight, ["--help"]).output
    assert shown.index("Images:") < shown.index("A running system")
    for command in COMMANDS:
        of_checkout = scripts.cli.SECTIONS["Images"][str(command.name)]
        assert isinstance(of_checkout, click.Command)
        assert of_checkout.callback is command.callback
        # Only the default of --url is that of the checkout's configuration.
        others = [[each for each in some.params if each.name != "url"] for some in (of_checkout, command)]
        assert others[0] == others[1]
        assert [each.name for each in of_checkout.params] == [each.name for each in command.params]
