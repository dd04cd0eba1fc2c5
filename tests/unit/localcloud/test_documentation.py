"""Every switch is told to a person, with the default that it has."""

import re
from dataclasses import asdict
from pathlib import Path

import yaml

from localcloud.options import Switches
from localcloud.typed_switches import switches_of

ROOT = Path(__file__).resolve().parents[3]
PAGE = (ROOT / "localcloud" / "README.md").read_text()


def test_the_page_has_a_row_for_each_switch_with_its_default() -> None:
    rows = re.findall(r"^\| `(\w+)` \| [^|]+ \| ([^|]+) \| [^|]+ \| [^|]+ \|$", PAGE, re.MULTILINE)
    assert {name: yaml.safe_load(default) for name, default in rows} == asdict(Switches())


def test_the_settings_that_the_page_shows_can_be_typed() -> None:
    settings = [first or second for first, second in re.findall(r"--switch (?:'([^']+)'|(\S+=\S+))", PAGE)]
    assert len(settings) >= 5
    switches_of(settings)


def test_the_readme_leads_to_the_page() -> None:
    assert "localcloud/README.md" in (ROOT / "README.md").read_text()
