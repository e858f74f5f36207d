"""Quantise an ONNX file to INT8: static, with quantise and dequantise nodes (QDQ), weights by channel.

Two flavours, because no file is fast on both CPU and GPU. `cpu`: unsigned activations with a zero point, which ONNX
Runtime and OpenVINO fuse into 8-bit kernels (resnet18, one thread: 3.4 times as fast as float32; with signed
activations 1.2 times). `nvidia`: signed and symmetric, the bias in float32, and only around products and sums,
because TensorRT's parser refuses zero points and int32 biases.

On a CPU weights have 7 bits by default, or 8. An x86 processor without VNNI adds two 8-bit products in 16 bits and
clips the sum, so the same file is right on one machine and wrong on the next: the built-in teacher fell from 97.0 to
90.9 % on such a processor, and was at 97.0 % with VNNI. 255 × 64 × 2 fits into 16 bits. GPUs add in 32 bits.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor.errors import ExportError
from compressor.exporting.artifact import Artifact
from compressor.exporting.calibration import checked, few_at_a_time
from compressor.exporting.int8_exceptions import spare
from compressor.exporting.onnx_files import first_input, read_model, write_model
from compressor.exporting.options import Asked

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

CALIBRATION = "minmax"
"""The range of an activation is that of the calibration images: no table shows that another choice loses less, and
this one takes at most 0.14 points of top-1 (docs/exporting.md)."""
FLAVOURS: dict[str, dict[str, Any]] = {
    "cpu": {"ActivationSymmetric": False, "WeightSymmetric": True},
    "nvidia": {"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False},
}
PRODUCTS = ("Conv", "Gemm", "MatMul", "Add")
WEIGHT_STEPS = {7: 64, 8: 127}
"""Number of steps on either side of zero, by the bits of a weight."""


def to_int8_cpu(source: Path, path: Path, options: Asked) -> Artifact:
    """Quantise for ONNX Runtime and OpenVINO."""
    return _to_int8(source, path, options, "cpu")


def to_int8_nvidia(source: Path, path: Path, options: Asked) -> Artifact:
    """Quantise for TensorRT."""
    return _to_int8(source, path, options, "nvidia")


def _to_int8(source: Path, path: Path, options: Asked, flavour: str) -> Artifact:
    batches = checked(options.batches)
    if options.weight_bits not in WEIGHT_STEPS:
        raise ExportError(f"cannot quantise to weights of {options.weight_bits} bits", "choose 7 or 8")
    model = read_model(source)
    names = {node.name for node in model.graph.node}
    unknown = [name for name in options.exclude if name not in names]
    if unknown:
        raise ExportError(f"cannot leave `{unknown[0]}` in float32: `{source}` has no such node")
    metadata = list(model.metadata_props)
    plain = read_model(source) if options.exclude else None  # the quantiser changes its input
    input_name, fixed_batch = first_input(model)
    feeds = ({input_name: part} for part in few_at_a_time(batches, fixed_batch))
    quantised = _quantised(model, feeds, options, flavour)
    if plain is not None:
        spare(quantised, plain, frozenset(options.exclude))
    quantised.producer_name, quantised.producer_version = model.producer_name, ""
    quantised.metadata_props.extend(metadata)
    notes = tuple(f"{name} stays float32: it lost accuracy in int8" for name in options.exclude)
    bits = options.weight_bits if flavour == "cpu" else 8
    if flavour == "cpu" and bits == 8:
        notes = (
            *notes,
            "weights have 8 bits: correct only where products are added in 32 bits (VNNI, AMX, Arm)",
        )
    if not any(node.op_type == "QuantizeLinear" for node in quantised.graph.node):
        notes = (*notes, "nothing in this network could be quantised: the file is float32")
    suffix = "-nvidia" if flavour == "nvidia" else ""
    return write_model(
        quantised, path, format=f"onnx-int8{suffix}", precision="int8", notes=notes,
        quantised_for=flavour, weight_bits=str(bits),
        calibration=f"{CALIBRATION}, {sum(map(len, batches))} images",
    )  # fmt: skip


def quantised_on(feed: Mapping[str, Array], model: bytes) -> bytes:
    """Quantise a model in memory for a CPU, calibrated on one feed: good for its time, not for its accuracy."""
    import onnx

    quantised = _quantised(onnx.load_from_string(model), iter([dict(feed)]), Asked(), "cpu")
    return bytes(quantised.SerializeToString())


def _quantised(model: Any, feeds: Iterator[dict[str, Array]], options: Asked, flavour: str) -> Any:
    import onnx
    from onnxruntime import quantization as ort

    signed = flavour == "nvidia"
    with tempfile.TemporaryDirectory() as folder, _silent():
        target = Path(folder) / "quantised.onnx"
        try:
            ort.quantize_static(
                model,
                str(target),
                _Reader(feeds),
                quant_format=ort.QuantFormat.QDQ,
                per_channel=True,
                activation_type=ort.QuantType.QInt8 if signed else ort.QuantType.QUInt8,
                weight_type=ort.QuantType.QInt8,
                reduce_range=flavour == "cpu" and options.weight_bits == 7,
                op_types_to_quantize=list(PRODUCTS) if signed else None,
                calibrate_method=ort.CalibrationMethod.MinMax,
                calibration_providers=["CPUExecutionProvider"],
                extra_options=FLAVOURS[flavour],
            )
            return onnx.load(str(target))
        # The quantiser checks little of its input, and may raise anything.
        except Exception as error:
            fact = str(error).strip().splitlines() or [type(error).__name__]
            raise ExportError(f"cannot quantise: {fact[0]}") from error


class _Reader:
    """Feeds in the form that ONNX Runtime's calibration reads: one after the other, then None."""

    def __init__(self, feeds: Iterator[dict[str, Array]]) -> None:
        self._feeds = feeds

    def get_next(self) -> dict[str, Array] | None:
        return next(self._feeds, None)


@contextmanager
def _silent() -> Iterator[None]:
    """Silence the root logger: the quantiser advises a preparation that our files do not need."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(level)
