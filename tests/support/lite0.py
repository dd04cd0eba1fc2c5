"""EfficientNet-Lite0 in torch, with which the one that is built without torch is compared."""

import math

import torch
from torch.nn import functional

State = dict[str, torch.Tensor]


def lite0_blocks() -> list[tuple[int, int, int, int, bool]]:
    """Return expansion, channels, kernel and stride of each block, and whether its input is added."""
    # As the authors write it: r1_k3_s11_e1_i32_o16 and so on, at width and depth 1.
    rows = (
        *("r1_k3_s1_e1_o16", "r2_k3_s2_e6_o24", "r2_k5_s2_e6_o40", "r3_k3_s2_e6_o80"),
        *("r3_k5_s1_e6_o112", "r4_k5_s2_e6_o192", "r1_k3_s1_e6_o320"),
    )
    blocks = []
    for row in rows:
        repeats, kernel, stride, expansion, channels = (int(part.lstrip("rkseo")) for part in row.split("_"))
        blocks += [(expansion, channels, kernel, 1 if n else stride, n > 0) for n in range(repeats)]
    return blocks


def lite0_logits(state: State, x: torch.Tensor) -> torch.Tensor:
    """Return the answers of EfficientNet-Lite0, computed by torch's functions."""

    def layer(x: torch.Tensor, name: str, norm: str, stride: int = 1, limited: bool = True) -> torch.Tensor:
        weight = state[f"{name}.weight"]
        kernel, groups = weight.shape[2], x.shape[1] // weight.shape[1]
        pad = max((math.ceil(x.shape[2] / stride) - 1) * stride + kernel - x.shape[2], 0)
        x = functional.pad(x, (pad // 2, pad - pad // 2) * 2)  # TensorFlow's SAME
        x = functional.conv2d(x, weight, None, stride, groups=groups)
        mean, variance = state[f"{norm}.running_mean"], state[f"{norm}.running_var"]
        x = functional.batch_norm(x, mean, variance, state[f"{norm}.weight"], state[f"{norm}.bias"], eps=1e-3)
        return functional.relu6(x) if limited else x

    x = layer(x, "_conv_stem", "_bn0", 2)
    for number, (expansion, _, _, stride, is_added) in enumerate(lite0_blocks()):
        block = f"_blocks.{number}."
        y = layer(x, f"{block}_expand_conv", f"{block}_bn0") if expansion > 1 else x
        y = layer(y, f"{block}_depthwise_conv", f"{block}_bn1", stride)
        y = layer(y, f"{block}_project_conv", f"{block}_bn2", limited=False)
        x = x + y if is_added else y
    return functional.linear(layer(x, "_conv_head", "_bn1").mean((2, 3)), state["_fc.weight"], state["_fc.bias"])
