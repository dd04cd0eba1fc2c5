"""Lists the files that a start reads: what `provision.sh` has read early at each boot.

Run in the image by the image's Python: `python used_files.py BUNDLE MODULE...`. Imports the modules, compiles the
bundle's network where OpenVINO is installed, and prints a path for each file that this process has then mapped or
imported, and each of the bundle.
"""

import importlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

SHARED = Path("/proc/self/maps")


def main(arguments: Sequence[str]) -> None:
    """Print the files, each once, in alphabetical order."""
    bundle = Path(arguments[0])
    for name in arguments[1:]:
        importlib.import_module(name)
    if (bundle / "model.xml").is_file():
        _compile(bundle / "model.xml")
    files = {*imported(), *mapped(SHARED.read_text()), *(path for path in bundle.iterdir() if path.is_file())}
    sys.stdout.writelines(f"{path}\n" for path in sorted(map(str, files)))


def imported() -> Iterator[Path]:
    """Yield what Python has read for the modules that are imported: compiled ones, or extensions."""
    for module in list(sys.modules.values()):
        spec = getattr(module, "__spec__", None)
        for path in (getattr(spec, "cached", None), getattr(spec, "origin", None)):
            if path is not None and Path(path).is_file():
                yield Path(path)
                break


def mapped(maps: str) -> Iterator[Path]:
    """Yield the files in the text of `/proc/PID/maps`: Python itself, libraries, extensions."""
    for line in maps.splitlines():
        _, _, path = line.partition("/")
        if path and not path.endswith("(deleted)") and Path("/" + path).is_file():
            yield Path("/" + path)


def _compile(network: Path) -> None:
    try:
        openvino = importlib.import_module("openvino")
    except ModuleNotFoundError:
        return  # the web tier reads the bundle's words only
    openvino.Core().compile_model(str(network), "CPU")


if __name__ == "__main__":
    main(sys.argv[1:])
