"""The client and the commands of a checkout agree with the server and with each other."""

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import scripts.cli
from core.images import SUFFIXES as ACCEPTED_SUFFIXES
from core.label_names import plain_label as plain_label_of_the_server
from fleetsight_client.cli import COMMANDS
from fleetsight_client.folders import SUFFIXES
from fleetsight_client.rows import COLUMNS, plain_label, safe_cell
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
