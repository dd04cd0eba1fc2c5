"""The features: each is a folder of this package and a name in `FEATURES`, and is removed with the two.

The core imports no feature, and no feature imports another one. The core takes from a folder, where it has them:

- `pages.py` with `pages`, and `api.py` with `api`: routes at the addresses that they declare, and below `/api/v1`.
- `loops.py` with `loops`: loops of the controller, and what other loops call.
- `static/`: static files; those of `review` have names such as `review/job.js`.
- templates that pages of the core include, such as `job_menu.html`, and modules that they load (`parts`).

The setting `notifications.topic_arn` is in `core/config.py`, since workers, which know no feature, validate the whole
config.yaml.
"""

from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Final

FEATURES: Final = (
    "dead_letters",
    "fleet_control",
    "models",
    "review",
    "sharing",
    "notifications",
)
"""Pages show their parts in this order."""

FOLDER: Final = Path(__file__).parent


def modules(name: str) -> list[ModuleType]:
    """Import the modules `name` that features have."""
    return [
        import_module(f"{__name__}.{each}.{name}") for each in FEATURES if (FOLDER / each / f"{name}.py").exists()
    ]


@cache
def parts(name: str) -> list[str]:
    """Return the names of files that features have: of templates, such as `review/job_menu.html`, and of scripts."""
    places = [(f"{each}/{name}", FOLDER / each / sub / name) for each in FEATURES for sub in ("", "static")]
    return [part for part, path in places if path.exists()]
