"""A small ONNX file written by hand, so that the tests need no package for it.

Field numbers: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
"""

FLOAT = 1


def colour_network(size: int, outputs: int = 1) -> bytes:
    """Return a network for one image of 3 x size x size; its three logits are the means of its channels."""
    nodes = [_node("GlobalAveragePool", "pixels", "pooled"), _node("Flatten", "pooled", "logits")]
    ends = [_value("logits", (1, 3)), _value("pooled", (1, 3, 1, 1))][:outputs]
    graph = b"".join(_part(1, node) for node in nodes) + _part(2, b"colours")
    graph += _part(11, _value("pixels", (1, 3, size, size))) + b"".join(_part(12, end) for end in ends)
    return _number(1, 8) + _part(7, graph) + _part(8, _number(2, 13))


def _node(operator: str, source: str, target: str) -> bytes:
    return _part(1, source.encode()) + _part(2, target.encode()) + _part(4, operator.encode())


def _value(name: str, shape: tuple[int, ...]) -> bytes:
    dimensions = b"".join(_part(1, _number(1, length)) for length in shape)
    return _part(1, name.encode()) + _part(2, _part(1, _number(1, FLOAT) + _part(2, dimensions)))


def _part(field: int, contents: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(contents)) + contents


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _varint(value: int) -> bytes:
    if value < 128:
        return bytes([value])
    return bytes([value & 127 | 128]) + _varint(value >> 7)
