"""Hooks of MkDocs: the site has pages of other folders, a reference made from the code, and links between them.

Documents name each other, and keys of the configuration, in backticks; on the site these are links. Links between
documents are those of the repository, so that they also work where it is browsed.
"""

import re
from collections.abc import Callable, Mapping
from importlib.metadata import distribution
from pathlib import PurePosixPath
from posixpath import normpath, relpath
from typing import Any, Final
from urllib.parse import urlsplit
from xml.etree.ElementTree import Element

from markdown import Markdown
from markdown.extensions import Extension
from markdown.treeprocessors import Treeprocessor
from mkdocs.structure.files import File, Files

from scripts.documentation.api import api_reference
from scripts.documentation.commands import commands_reference
from scripts.documentation.configuration import configuration_reference, read_settings
from scripts.documentation.messages import messages_reference
from scripts.documentation.metrics import metrics_reference
from scripts.run.system import ROOT

GENERATED: Final[Mapping[str, Callable[[], str]]] = {
    "api": api_reference,
    "commands": commands_reference,
    "configuration": configuration_reference,
    "messages": messages_reference,
    "metrics": metrics_reference,
}
"""What replaces the line `<!-- reference: NAME -->` of a page and the next line, which is for readers of the file."""

MARKER = re.compile(r"^<!-- reference: (\w+) -->\n.+$", re.MULTILINE)

OTHER_FOLDERS: Final[Mapping[str, str]] = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security-policy.md",
    **{
        f"{folder}/README.md": f"{folder}.md"
        for folder in ("ami", "client", "examples", "infra", "localcloud", "tests")
    },
}
"""Documents outside of docs/, and their pages."""

_SOURCES: Final = {page: path for path, page in OTHER_FOLDERS.items()}

LOGO: Final = "assets/mark.svg"
FONT: Final = "assets/inter.woff2"
DIAGRAMS: Final = "assets/mermaid.js"
"""Draws diagrams. If a page does not load it, the theme loads it from another host."""

CONFIGURATION: Final = "docs/reference/configuration.md"

_HEADING = re.compile(r"h[1-6]")


def documents() -> dict[str, str]:
    """Return the title of each document, by its path in the repository."""
    paths = [*OTHER_FOLDERS, *(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))]
    return {path: (ROOT / path).read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ") for path in paths}


def settings() -> frozenset[str]:
    """Return the keys of the configuration: `fleet.max_workers`."""
    sections = read_settings((ROOT / "config.yaml").read_text(encoding="utf-8"))
    return frozenset(
        f"{name}.{key}" for name, section in sections.items() for group in section.groups for key in group.values
    )


def page_of(path: str) -> str:
    """Return where a file of the repository is on the site, from its root; the reference has config.yaml."""
    path = CONFIGURATION if path == "config.yaml" else path
    return OTHER_FOLDERS.get(path, path.removeprefix("docs/"))


def address(path: str, source: str) -> str:
    """Return the link from the page of the document `source` to a file of the repository, which may have a `#`."""
    file, hash_sign, fragment = path.partition("#")
    return relpath(page_of(file), PurePosixPath(page_of(source)).parent) + hash_sign + fragment


class SiteLinks(Treeprocessor):  # type: ignore[misc] # markdown has no types
    """Makes links of a document those of the site, and links of the documents and keys that it names in backticks."""

    def __init__(self, titles: Mapping[str, str], keys: frozenset[str]) -> None:
        super().__init__()
        self.source = ""
        self._titles, self._keys = titles, keys

    def run(self, root: Element) -> None:
        """Change the links below `root`."""
        for index, child in enumerate(root):
            if child.tag == "code" and (link := self._named(child.text or "")) is not None:
                link.tail, child.tail = child.tail, None
                if link.text is None:
                    link.append(child)
                root[index] = link
                continue
            for attribute in {"href", "src"} & child.attrib.keys():
                child.set(attribute, self._linked(child.attrib[attribute]))
            if child.tag != "a" and not _HEADING.fullmatch(child.tag):
                self.run(child)

    def _named(self, code: str) -> Element | None:
        """Return a link to what `code` names, without a text if that stays as it is; None if it names nothing."""
        link = Element("a")
        if code in self._titles and code != self.source:
            link.text = self._titles[code]
            link.set("href", address(code, self.source))
            return link
        key = re.split(r"[ :=]", code, maxsplit=1)[0]
        if key in self._keys and self.source != CONFIGURATION:
            link.set("href", address(f"{CONFIGURATION}#{key}", self.source))
            return link
        return None

    def _linked(self, link: str) -> str:
        """Return a link of the document as one of the site."""
        if urlsplit(link).scheme or link.startswith(("#", "/")):
            return link
        return address(normpath(PurePosixPath(self.source).parent / link), self.source)


class _SiteLinksExtension(Extension):  # type: ignore[misc] # markdown has no types
    """Makes Python-Markdown run `SiteLinks` after inline patterns (priority 20), before MkDocs checks links (0)."""

    def __init__(self, links: SiteLinks) -> None:
        super().__init__()
        self._links = links

    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802 - the library's name
        md.treeprocessors.register(self._links, "site_links", 15)


_links = SiteLinks({}, frozenset())


def on_config(config: Any) -> None:
    """Add the links to the Markdown extensions, once for each build."""
    global _links  # noqa: PLW0603 - MkDocs calls functions of this module, which share this
    _links = SiteLinks(documents(), settings())
    config.markdown_extensions.append(_SiteLinksExtension(_links))


def on_files(files: Files, config: Any) -> None:
    """Add the documents of other folders, logo and font of the system's pages, and what draws diagrams."""
    static = ROOT / "web_tier" / "static"
    added = {
        **{page: ROOT / path for path, page in OTHER_FOLDERS.items()},
        LOGO: static / "mark.svg",
        FONT: static / "fonts" / "inter-latin-wght-normal.woff2",
        DIAGRAMS: distribution("mermaidx").locate_file("mermaidx/assets/mermaid.js"),
    }
    for place, path in added.items():
        files.append(File.generated(config, place, abs_src_path=str(path)))


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Return a document with the parts that are made from the code."""
    if page.file.src_uri == "index.md":
        page.meta["hide"] = ["navigation"]  # it would list this page alone
    _links.source = _SOURCES.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    return MARKER.sub(lambda found: GENERATED[found[1]](), markdown)


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """Return a page that loads what draws its diagrams, if it has some."""
    if 'class="mermaid"' not in output:
        return output
    script = f'<script src="{relpath(DIAGRAMS, PurePosixPath(page.url).parent)}" defer></script>'
    return output.replace("</head>", f"{script}</head>", 1)
