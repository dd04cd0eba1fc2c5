"""A small ONNX file written by hand, so that the tests need no package for it.

Field numbers: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
"""

FLOAT, UINT8, INT64, FLOAT16 = 1, 2, 7, 10


def colour_network(
    size: int | tuple[int, int],
    outputs: int = 1,
    *,
    ends: tuple[str, ...] = (),
    planes: int = 3,
    layout: str = "nchw",
    element_type: int = FLOAT,
    batch: int = 1,
    external: str | None = None,
) -> bytes:
    """Return a network of which the logits are the means of its channels; of one channel, also their negatives.

    Args:
        size: height and width of its input, or both.
        outputs: how many it has.
        ends: operators after the logits, such as ``Softmax``.
        planes: channels of its input.
        layout: ``nchw`` or ``nhwc``.
        element_type: of its input.
        batch: number of images that the file states.
        external: where a file has three numbers that are added to the logits; None adds none.
    """
    height, width = (size, size) if isinstance(size, int) else size
    shape = (batch, height, width, planes) if layout == "nhwc" else (batch, planes, height, width)
    nodes = [
        _node("Cast", ["pixels"], "cast", _integer("to", FLOAT)),
        _node("Transpose", ["cast"], "planes", _integers("perm", (0, 3, 1, 2) if layout == "nhwc" else (0, 1, 2, 3))),
        _node("GlobalAveragePool", ["planes"], "pooled"),
        _node("Flatten", ["pooled"], "means"),
        _node("Neg", ["means"], "negatives"),
        _node("Concat", ["means", "negatives"] if planes == 1 else ["means"], "end0", _integer("axis", 1)),
    ]
    for number, operator in enumerate(ends := (*ends, *(("Add",) if external else ()))):
        sources = [
            f"end{number}",
            *(["added"] if operator == "Add" else [f"end{number}"] if operator == "Sub" else []),
        ]
        nodes.append(_node(operator, sources, f"end{number + 1}"))
    classes = 3 if planes == 3 else 2 * planes
    results = [_value(f"end{len(ends)}", (batch, classes)), _value("pooled", (batch, planes, 1, 1))][:outputs]
    graph = b"".join(_part(1, node) for node in nodes) + _part(2, b"colours")
    graph += _part(11, _value("pixels", shape, element_type)) + b"".join(_part(12, result) for result in results)
    if external is not None:
        where = _part(13, _part(1, b"location") + _part(2, external.encode())) + _number(14, 1)
        graph += _part(5, _number(1, 3) + _number(2, FLOAT) + _part(8, b"added") + where)
    return _number(1, 8) + _part(7, graph) + _part(8, _number(2, 13))


def _node(operator: str, sources: list[str], target: str, attribute: bytes = b"") -> bytes:
    names = b"".join(_part(1, source.encode()) for source in sources) + _part(2, target.encode())
    return names + _part(4, operator.encode()) + (_part(5, attribute) if attribute else b"")


def _integer(name: str, value: int) -> bytes:
    return _part(1, name.encode()) + _number(3, value) + _number(20, 2)


def _integers(name: str, values: tuple[int, ...]) -> bytes:
    return _part(1, name.encode()) + b"".join(_number(8, value) for value in values) + _number(20, 7)


def _value(name: str, shape: tuple[int, ...], element_type: int = FLOAT) -> bytes:
    dimensions = b"".join(_part(1, _number(1, length)) for length in shape)
    return _part(1, name.encode()) + _part(2, _part(1, _number(1, element_type) + _part(2, dimensions)))


def _part(field: int, contents: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(contents)) + contents


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _varint(value: int) -> bytes:
    if value < 128:
        return bytes([value])
    return bytes([value & 127 | 128]) + _varint(value >> 7)
