"""The documentation site is built with warnings as errors, without a network, and loads nothing from other hosts."""

import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from core.config import Config
from tests.conftest import ROOT
from tests.support.documentation import build_site
from tests.support.documents import DOCUMENTS, name_of

pytestmark = [pytest.mark.processes, pytest.mark.thorough]

LOADED = re.compile(
    r"<(?:link|script|img|iframe|source|video|audio|object|use)\b[^>]*?\b(?:href|src|data)=\"([^\"]+)\""
)
LOADED_BY_STYLES = re.compile(r"(?:url\(|@import\s+)['\"]?([^'\")]+)")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site."""
    folder = tmp_path_factory.mktemp("site")
    built = build_site(folder)
    assert built.returncode == 0, built.stderr
    return folder


def page(site: Path, name: str) -> str:
    return (site / f"{name}.html").read_text(encoding="utf-8")


def test_every_document_is_a_page_in_the_navigation(site: Path) -> None:
    paths = {name_of(path) for path in (*DOCUMENTS, ROOT / "CHANGELOG.md")} - {"README.md"}
    pages = {
        re.sub(r"README\.md$|\.md$", lambda end: "index.html" if "README" in end[0] else ".html", path)
        for path in paths
    }
    linked = set(re.findall(r'<a href="([^"#:]+\.html)" class="md-nav__link', page(site, "index")))
    assert linked >= pages


def test_the_site_loads_nothing_from_another_host(site: Path) -> None:
    loaded = [(path, link) for path in site.rglob("*.html") for link in LOADED.findall(path.read_text("utf-8"))]
    loaded += [
        (path, link) for path in site.rglob("*.css") for link in LOADED_BY_STYLES.findall(path.read_text("utf-8"))
    ]
    assert len(loaded) > 100
    hosts = {urlsplit(link).netloc for _, link in loaded if not link.startswith("data:")}
    assert hosts == {""}


def test_the_reference_is_made_from_the_code(site: Path) -> None:
    configuration = re.sub(r"<[^>]+>", "", page(site, "docs/reference/configuration"))
    for section, field in Config.model_fields.items():
        keys = field.annotation.model_fields  # type: ignore[union-attr]
        assert [key for key in (section, *keys) if f"{key}:" not in configuration] == []
    commands = page(site, "docs/reference/commands")
    assert 'id="fleetsight-fleet-scale"' in commands
    assert all(f"--{option}" in commands for option in ("max-p95", "sort-into", "no-batch"))
    assert "fleetsight_dead_letters" in page(site, "docs/reference/metrics")
    assert "/api/v1/jobs/{job_id}" in page(site, "docs/reference/api")
    assert not [path for path in site.rglob("*.html") if "<!-- reference" in path.read_text("utf-8")]


def test_a_broken_link_fails_the_build(tmp_path: Path) -> None:
    documents = tmp_path / "docs"
    documents.mkdir()
    (documents / "a.md").write_text("# A\n\n[b](b.md)\n")
    config = yaml.safe_load("site_name: Test\nnav: [a.md]\nplugins: []\n")
    shipped = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    validation = shipped[shipped.index("\nvalidation:") :]
    (tmp_path / "mkdocs.yml").write_text(yaml.safe_dump(config) + validation)
    built = build_site(tmp_path / "site", tmp_path / "mkdocs.yml")
    assert built.returncode != 0
    assert "b.md" in built.stderr
