"""Convert an ONNX file to OpenVINO's two files, `NAME.xml` and `NAME.bin`, in the precision that it has."""

from __future__ import annotations

from pathlib import Path

from compressor.errors import ExportError
from compressor.exporting.artifact import Artifact, appearing_whole, describe
from compressor.exporting.extras import require
from compressor.exporting.options import Asked


def to_openvino(source: Path, path: Path, options: Asked) -> Artifact:
    """Write the two files without OpenVINO's default, which is to store the weights in float16."""
    del options  # no option applies: the precision is that of the file
    require("openvino", f"write `{path}`")
    import openvino

    with appearing_whole(path) as scratch:
        try:
            openvino.save_model(openvino.convert_model(str(source)), str(scratch), compress_to_fp16=False)
        except Exception as error:  # OpenVINO passes on any error of its C++
            fact = str(error).strip().splitlines() or [type(error).__name__]
            raise ExportError(f"OpenVINO refuses `{source}`: {fact[-1].strip()}") from error
    return describe(path, format="openvino", precision="fp32", opset=None)
