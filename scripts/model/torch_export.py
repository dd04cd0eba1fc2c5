"""Write a torch network, with softmax at its end and a free batch size, for torch and for OpenVINO."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from app_tier.bundle.errors import BundleBuildError
from app_tier.bundle.manifest import IR_NAME, TORCH_NAME
from app_tier.bundle.torch_import import export_warnings_off, import_torch
from app_tier.openvino_import import import_openvino, not_importable

if TYPE_CHECKING:
    from torch import nn

_MAX_BATCH: Final = 4096


def export_torch(network: "nn.Module", size: int, classes: int, folder: Path) -> None:
    """Write `network`, which maps float [N, 3, size, size] to logits [N, classes], into `folder`.

    Raises:
        BundleBuildError: the network has other outputs.
    """
    torch = import_torch()
    whole = torch.nn.Sequential(network, torch.nn.Softmax(dim=1)).eval()
    whole.to("cpu", torch.float32, memory_format=torch.contiguous_format)
    example = torch.zeros(2, 3, size, size)
    with export_warnings_off():
        batch = torch.export.Dim("batch", min=1, max=_MAX_BATCH)
        program = torch.export.export(whole, (example,), dynamic_shapes=({0: batch},))
        check_outputs(tuple(program.module()(example).shape), classes)
        _forget_source_lines(program)
        torch.export.save(program, folder / TORCH_NAME)
        model = _import_converter()(program)
    model.reshape([-1, 3, size, size])
    import_openvino().save_model(model, folder / IR_NAME, compress_to_fp16=False)


def check_outputs(shape: tuple[int, ...], classes: int) -> None:
    """Refuse a network if its answer to a batch of two has another shape than [2, classes].

    Raises:
        BundleBuildError: it has.
    """
    if shape != (2, classes):
        raise BundleBuildError(
            f"the network answers two images with outputs of shape {shape} but {classes} labels were given: "
            "it must have one output per image and label"
        )


def _forget_source_lines(program: Any) -> None:
    """Drop the files and lines that torch notes on every node: they are this machine's, and half of the file."""
    for node in program.graph.nodes:
        for key in ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn", "from_node"):
            node.meta.pop(key, None)


def _import_converter() -> Any:
    """Import ``openvino.tools.ovc.convert_model`` without the telemetry that it would send with each conversion."""
    import_openvino()
    with not_importable("openvino_telemetry"):
        from openvino.tools.ovc import convert_model
    return convert_model
