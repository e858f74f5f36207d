"""A model with many weights, written as one file without ever being in memory as one message.

To serialise a model takes twice its weights, and to check the file three times. Here weights go to a file beside it
first, what is left is checked, and the two are put together tensor by tensor: messages of protobuf that stand one after
the other are read as one, lists of the later added to those of the earlier.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx_ir

LARGE = 1 << 20
"""Bytes from which a tensor is written on its own."""


def weight_bytes(model: onnx_ir.Model) -> int:
    """What the initializers hold."""
    values = (each.const_value for each in model.graph.initializers.values())
    return sum(value.nbytes for value in values if value is not None)


def write_in_parts(model: onnx_ir.Model, path: Path) -> None:
    """Check the model and write it; whatever the checker raises comes through."""
    import onnx
    import onnx_ir

    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        skeleton = Path(folder) / path.name
        onnx_ir.save(model, skeleton, external_data="weights", size_threshold_bytes=LARGE)
        onnx.checker.check_model(str(skeleton), full_check=True)
        message = onnx.load(str(skeleton), load_external_data=False)
        apart = [each for each in message.graph.initializer if each.external_data]
        small = [each for each in message.graph.initializer if not each.external_data]
        places = [_place(each) for each in apart]
        del message.graph.initializer[:]
        message.graph.initializer.extend(small)
        with path.open("wb") as target, (Path(folder) / "weights").open("rb") as weights:
            target.write(message.SerializeToString(deterministic=True))
            for about, offset, length in places:
                weights.seek(offset)
                # A message of its own each time: what a message once held is not given back while it lives.
                tensor = onnx.TensorProto.FromString(about)
                tensor.raw_data = weights.read(length)
                part = onnx.ModelProto(graph=onnx.GraphProto(initializer=[tensor]))
                target.write(part.SerializeToString(deterministic=True))


def _place(tensor: Any) -> tuple[bytes, int, int]:
    """The tensor without its data, and where that lies."""
    import onnx

    place = {entry.key: entry.value for entry in tensor.external_data}
    own = onnx.TensorProto()
    own.CopyFrom(tensor)
    del own.external_data[:]
    own.ClearField("data_location")
    return own.SerializeToString(deterministic=True), int(place["offset"]), int(place["length"])
