"""Hooks of MkDocs: the documents of the repository in its own folders, so that their links are those of the site.

`docs_dir` has only what the site alone needs.
"""

import re
from collections.abc import Callable, Mapping
from importlib.metadata import distribution
from pathlib import PurePosixPath
from posixpath import relpath
from typing import Any, Final

from mkdocs.structure.files import File, Files

from scripts.documentation.reference import api_reference, metrics_reference
from scripts.run.system import ROOT

GENERATED: Final[Mapping[str, Callable[[], str]]] = {"api": api_reference, "metrics": metrics_reference}
"""What replaces the line `<!-- reference: NAME -->` of a page and the next line, which is for readers of the file."""

PATTERNS: Final = ("*.md", "docs/**/*.md", "docs/screenshots/*", "[!.]*/README.md", "web_tier/static/mark.svg")
FONT: Final = "web_tier/static/fonts/inter-latin-wght-normal.woff2"

DIAGRAMS: Final = "mermaid.js"
"""Draws diagrams. If a page does not load it, the theme loads it from another host."""


def on_files(files: Files, config: Any) -> None:
    """Add the documents and their pictures, logo and font of the system's pages, and what draws diagrams."""
    paths = {str(path.relative_to(ROOT)): path for pattern in PATTERNS for path in ROOT.glob(pattern)}
    drawing = distribution("mermaidx").locate_file("mermaidx/assets/mermaid.js")
    for place, path in {**paths, FONT: ROOT / FONT, DIAGRAMS: drawing}.items():
        files.append(File.generated(config, place, abs_src_path=str(path)))


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Return a document with the parts that are made from the code."""
    return re.sub(r"(?m)^<!-- reference: (\w+) -->\n.+$", lambda found: GENERATED[found[1]](), markdown)


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """Return a page that loads what draws its diagrams, if it has some."""
    if 'class="mermaid"' not in output:
        return output
    script = f'<script src="{relpath(DIAGRAMS, PurePosixPath(page.url).parent)}" defer></script>'
    return output.replace("</head>", f"{script}</head>", 1)
