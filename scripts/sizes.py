"""``python -m scripts.sizes``: lines of code of each folder beside those of the last release, as CHANGELOG.md states.

No number is a limit: the table lets a reviewer see which folder grows.
"""

import ast
import re
import subprocess
from collections import Counter
from pathlib import Path
from typing import Final, TypeGuard

from fleetsight_client.terminal import clean_terminal_output

ROOT: Final = Path(__file__).resolve().parents[1]
PAGES: Final = (".js", ".html", ".css")
STATED: Final = re.compile(r"^Lines of code: (.+)\.$", re.MULTILINE)


def is_text(node: ast.AST) -> TypeGuard[ast.Expr]:
    """Return True if the statement is a text: a docstring, or the one below a constant."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def lines_of_code(file: Path) -> int:
    """Return the lines that are not blank; of Python also without comments, docstrings and the module's imports."""
    text = file.read_text(encoding="utf-8")
    lines = {number: line.strip() for number, line in enumerate(text.splitlines(), 1) if line.strip()}
    if file.suffix != ".py":
        return len(lines)
    code = {number for number, line in lines.items() if not line.startswith("#")}
    tree = ast.parse(text)
    imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    for node in [*imports, *filter(is_text, ast.walk(tree))]:
        code -= {*range(node.lineno, (node.end_lineno or node.lineno) + 1)}
    return len(code)


def sizes(root: Path) -> dict[str, int]:
    """Return the lines of code of each folder of the checkout `root`; `tests` are those of all packages."""
    counts: Counter[str] = Counter()
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        file, folders = root / name, Path(name).parts[:-1]
        if folders and file.suffix in {".py", *PAGES} and file.is_file() and not file.is_symlink():
            folder = "tests" if "tests" in folders else "pages" if file.suffix in PAGES else folders[0]
            counts[folder] += lines_of_code(file)
    return dict(sorted(counts.items()))


def stated_sizes(changelog: str) -> dict[str, int]:
    """Return the sizes that the newest release in the text of CHANGELOG.md states, or none."""
    stated = STATED.search(changelog)
    pairs = (part.rsplit(" ", 1) for part in stated.group(1).split("; ")) if stated else ()
    return {folder: int(number.replace(",", "")) for folder, number in pairs}


def sentence(counts: dict[str, int]) -> str:
    """Return the line of CHANGELOG.md that states these sizes."""
    return "Lines of code: " + "; ".join(f"{folder} {number:,}" for folder, number in counts.items()) + "."


def main() -> None:
    """Print the table."""
    clean_terminal_output()
    now, before = sizes(ROOT), stated_sizes((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))
    print(f"{'Lines of code':16}{'now':>9}{'release':>9}")
    for folder in sorted({*now, *before}):
        print(f"{folder:16}{now.get(folder, 0):>9,}{before.get(folder, 0):>9,}")
    print(f"{'all':16}{sum(now.values()):>9,}{sum(before.values()):>9,}")


if __name__ == "__main__":
    main()
