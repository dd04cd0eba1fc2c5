"""What gets installed is pinned, with the hashes of its files, and pinned in the section that needs it."""

import re

import pytest
from packaging.version import Version

from scripts.pin import Pin, RequirementsError, all_pins, is_wanted, read_sections, with_hashes
from scripts.pin import sections as sections_of
from scripts.run.system import ROOT
from tests.support.pins import direct, sections


@pytest.mark.parametrize(("section", "name"), list(direct()))
def test_each_direct_dependency_is_pinned_in_its_section(section: str, name: str) -> None:
    assert name in sections()[section]


def test_every_pin_is_one_exact_version() -> None:
    versions = [version for pins in sections().values() for version in pins.values()]
    assert all(re.fullmatch(r"\d[\w.]*", version) for version in versions)


def test_the_first_run_does_not_wait_for_torch() -> None:
    assert not {"torch", "torchvision"} & sections()["run"].keys()
    assert {"torch", "torchvision"} <= sections()["torch"].keys()


def test_every_pin_has_hashes_and_is_the_same_in_every_section() -> None:
    for section, pins in read_sections().items():
        for pin in pins:
            assert pin.hashes, f"{pin.name} in [{section}]: run python -m scripts.pin"
            assert pin == all_pins()[pin.name], f"{pin.name} in [{section}] is not as it is elsewhere"


def test_a_section_names_a_package_once_and_in_order() -> None:
    for section, pins in read_sections().items():
        names = [pin.name for pin in pins]
        assert names == sorted(set(names)), section


def test_pillow_has_the_mends_against_bombs() -> None:
    for section in ("run", "worker", "web"):
        assert Version(sections()[section]["pillow"]) >= Version("12.3")


def test_no_address_of_a_registry_is_written_down() -> None:
    assert "://" not in (ROOT / "requirements.txt").read_text()


def test_hashes_are_filled_in_under_each_pin_and_nothing_else_changes() -> None:
    text = (
        '# note\n\n# [run]\na==1 ; python_version < "3.14" \\\n    --hash=sha256:' + "0" * 64 + "\n\n# [web]\na==1\n"
    )
    filled = with_hashes(text, {"a": ("1" * 64, "2" * 64)})
    marked, plain = (sections_of(filled)[name][0] for name in ("run", "web"))
    assert (marked.marker, plain.marker) == ('python_version < "3.14"', "")
    assert marked.hashes == plain.hashes == ("1" * 64, "2" * 64)
    assert filled.startswith("# note\n\n# [run]\na==1 ; ")
    assert with_hashes(filled, {"a": ("1" * 64, "2" * 64)}) == filled


@pytest.mark.parametrize("line", ["a>=1", "a", "--index-url https://example.org", "a==1 --hash=md5:0", "A==1"])
def test_what_is_neither_pin_nor_hash_is_refused(line: str) -> None:
    with pytest.raises(RequirementsError, match="line 2"):
        sections_of(f"# [run]\n{line}\n")


@pytest.mark.parametrize(
    ("file", "wanted"),
    [
        ("a-1.0-py3-none-any.whl", True),
        ("a-1.0-py2.py3-none-any.whl", True),
        ("a-1.0-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl", True),
        ("a-1.0-cp310-abi3-macosx_11_0_arm64.whl", True),
        ("a-1.0+cpu-cp314-cp314-linux_aarch64.whl", True),
        ("a-1.0.tar.gz", True),
        ("a-1.1-py3-none-any.whl", False),
        ("b-1.0-py3-none-any.whl", False),
        ("a-1.0-cp310-cp310-manylinux_2_17_x86_64.whl", False),
        ("a-1.0-cp314-cp314t-manylinux_2_17_x86_64.whl", False),
        ("a-1.0-cp311-cp311-win_amd64.whl", False),
        ("a-1.0-cp311-cp311-musllinux_1_2_x86_64.whl", False),
        ("a-1.0-cp311-cp311-macosx_10_9_x86_64.whl", False),
        ("a-1.0.exe", False),
    ],
)
def test_files_are_wanted_for_the_machines_that_we_run_on(file: str, wanted: bool) -> None:
    assert is_wanted(file, Pin("a", "1.0")) is wanted
