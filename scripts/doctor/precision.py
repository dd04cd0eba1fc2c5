"""Prints the precision in which a worker would compute a bundle on this machine, and what the CPU offers, as JSON.

`fleetsight doctor` runs it as a process of its own, with the folder of the bundle and the name of the engine.
"""

import json
import sys
from pathlib import Path

from app_tier.bundle import read_manifest
from app_tier.engine_imports import import_openvino
from app_tier.engines import chosen_precision


def main(bundle: str, engine: str) -> None:
    """Print the JSON of a bundle and an engine."""
    manifest = read_manifest(Path(bundle))
    features = import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    chosen = chosen_precision(engine, manifest)
    reply = {
        "wanted": manifest.precision,
        "precision": chosen,
        "first": manifest.low_precision if chosen == "exact" else None,
        "features": " ".join(features),
    }
    print(json.dumps(reply))


if __name__ == "__main__":
    main(*sys.argv[1:])
