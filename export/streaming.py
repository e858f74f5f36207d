"""Write a model with many weights as one file, without having it in memory as one message.

Serialising a model takes twice the memory of its weights, checking the file three times. Here the weights are first
written to a separate file, the rest is checked, and both are joined tensor by tensor: protobuf reads concatenated
messages as one, and appends the lists of the later ones to those of the earlier ones.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx_ir

LARGE = 1 << 20
"""Size in bytes from which a tensor is written separately."""


def weight_bytes(model: onnx_ir.Model) -> int:
    """Total size of the initializers in bytes."""
    values = (initializer.const_value for initializer in model.graph.initializers.values())
    return sum(value.nbytes for value in values if value is not None)


def write_in_parts(model: onnx_ir.Model, path: Path) -> None:
    """Check the model and write it; errors of the checker are not caught."""
    import onnx
    import onnx_ir

    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        skeleton = Path(folder) / path.name
        onnx_ir.save(model, skeleton, external_data="weights", size_threshold_bytes=LARGE)
        onnx.checker.check_model(str(skeleton), full_check=True)
        message = onnx.load(str(skeleton), load_external_data=False)
        large = [tensor for tensor in message.graph.initializer if tensor.external_data]
        small = [tensor for tensor in message.graph.initializer if not tensor.external_data]
        places = [_place(tensor) for tensor in large]
        del message.graph.initializer[:]
        message.graph.initializer.extend(small)
        with path.open("wb") as target, (Path(folder) / "weights").open("rb") as weights:
            target.write(message.SerializeToString(deterministic=True))
            for header, offset, length in places:
                weights.seek(offset)
                # A new message for every tensor: a message does not free memory as long as it exists.
                tensor = onnx.TensorProto.FromString(header)
                tensor.raw_data = weights.read(length)
                part = onnx.ModelProto(graph=onnx.GraphProto(initializer=[tensor]))
                target.write(part.SerializeToString(deterministic=True))


def _place(tensor: Any) -> tuple[bytes, int, int]:
    """The tensor without its data, and the offset and length of the data in the weights file."""
    import onnx

    location = {entry.key: entry.value for entry in tensor.external_data}
    header = onnx.TensorProto()
    header.CopyFrom(tensor)
    del header.external_data[:]
    header.ClearField("data_location")
    return header.SerializeToString(deterministic=True), int(location["offset"]), int(location["length"])
