"""A program that loads a bundle with OpenVINO and classifies a grey image: `python -m app_tier.bundle_check FOLDER`.

Operators offer bundles that others have built. A network that OpenVINO cannot read may end its process or use all
memory, so it is loaded here first: without the environment of the caller, which has credentials, and within limits.
The sandbox of images is too narrow for it: OpenVINO starts threads. Nothing needs torch.
"""

import resource
import sys
from pathlib import Path
from typing import Final

import numpy as np

from app_tier.bundle import EngineError, load_bundle
from app_tier.classify import check_engine
from app_tier.engines import LoadedModel, open_engine
from core.bundle_manifest import BundleError

MAX_CPU_SECONDS: Final = 120
MAX_MEMORY_BYTES: Final = 16 * 2**30
"""CPU time and address space of the process. Weights of 2 GB take a third of it."""


def main() -> None:
    """Check the bundle in the folder of the first argument; print what is wrong, and end with status 1 then."""
    limits = (
        (resource.RLIMIT_CPU, MAX_CPU_SECONDS),
        (resource.RLIMIT_AS, MAX_MEMORY_BYTES),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    )
    for kind, limit in limits:
        hard = resource.getrlimit(kind)[1]
        least = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(kind, (least, least))
    try:
        bundle = load_bundle(Path(sys.argv[1]))
        if not np.isfinite(check_engine(LoadedModel(bundle, open_engine("openvino", bundle), 1))).all():
            raise EngineError(f"{bundle.name} answers a grey picture with what is no number: build it again")
    except BundleError as error:
        sys.stdout.write(" ".join(str(error).split()))  # OpenVINO's reasons have several lines
        sys.exit(1)


if __name__ == "__main__":
    main()
