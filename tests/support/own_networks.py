"""Networks of users, small ones of three colours, and how a bundle is built of them."""

from pathlib import Path

from app_tier.bundle import Bundle
from scripts.model.own_network import build_own
from scripts.model.precision import Target
from tests.support.onnx_file import FLOAT, FLOAT16, UINT8, colour_network

SIZE = 16
SPEC = """
input_size: 16
fit: crop
resize: 20
mean: [0.1, 0.2, 0.3]
std: [0.1, 0.1, 0.1]
labels: [red, green, blue]
messages: {red: Mind the paint.}
"""


def write_network(
    path: Path, layout: str = "nchw", planes: int = 3, kind: str = "float32", ends: tuple[str, ...] = ()
) -> Path:
    """Write the same network in the format of the path's suffix: ONNX or a program of torch."""
    if path.suffix == ".onnx":
        element_type = {"float32": FLOAT, "float16": FLOAT16, "uint8": UINT8}[kind]
        path.write_bytes(
            colour_network(SIZE, ends=ends, planes=planes, layout=layout, element_type=element_type, batch=8)
        )
    else:
        from tests.support.pt2 import MeanColour, write_pt2

        shape = (SIZE, SIZE, planes) if layout == "nhwc" else (planes, SIZE, SIZE)
        write_pt2(path, MeanColour(layout, ends), shape=shape, kind=kind)
    return path


def build_with(network: Path, spec: str, target: Target = Target()) -> Bundle:  # noqa: B008 - frozen
    """Build the bundle of a network beside it, with a YAML that is called paint."""
    described = network.parent / "paint.yaml"
    described.write_text(spec)
    return build_own(network, described, network.parent / "bundle", target)
