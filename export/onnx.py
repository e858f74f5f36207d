"""Write a module as one ONNX file that ONNX Runtime, OpenVINO and TensorRT read.

Batch norms are folded, the batch axis is free, the model is checked before it gets its final
name, and two exports of the same weights are the same bytes. Not done here: lower precision,
other formats, and the proof that the file computes what the module does. `compare` does that,
because it has to run both.

Time, for a ten-convolution residual network in a fresh process (torch 2.15, two x86 cores):
1.65 s, where the exporter alone takes 1.90 s and most of the difference is garbage collection.
Capture is 0.4 s, decomposition 0.3 s, reading the exporter's table of 500 operators 0.6 s,
optimising, saving and checking 0.1 s. Folding the batch norms on the captured graph was tried:
0.1 s gained here, 0.3 s lost on resnet50, a hundred lines more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor.errors import ExportError, first_line
from compressor.exporting.artifact import Artifact, appearing_whole, describe
from compressor.exporting.capture import BATCH, Free, captured, copied, undisturbed
from compressor.exporting.hygiene import LAYER_NAMES, tidy
from compressor.exporting.rejections import explained
from compressor.exporting.streaming import weight_bytes, write_in_parts
from compressor.exporting.trees import INPUT, call_of, flatten, outputs_by_name

# torch and onnx are imported where they are used: the table of formats names `to_onnx`, and
# reading that table must stay instant.
if TYPE_CHECKING:
    from torch import nn
    from torch.export import ExportedProgram
    from torch.onnx import ONNXProgram

PRODUCER = "compress-to-edge"
MANY = 64 << 20
"""Bytes of weights from which a file is written in parts, which takes less memory and a little more time."""
ONE_FILE = 3 << 29
"""Bytes of weights above which the exporter writes them to a separate file."""
_PRECISIONS = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "float64": "fp64"}


def to_onnx(
    module: nn.Module,
    example: Any,
    path: Path,
    *,
    opset: int | None = None,
    metadata: Mapping[str, str] | None = None,
    free_size: bool = False,
) -> Artifact:
    """Write ``module``, as it computes in eval mode, to ``path``.

    ``example``: a tensor, a tuple of arguments, or arguments by name. One tensor is the input ``input``, others have
    the names of their arguments. Outputs are ``logits``, ``output_1``, … of tensors in a row; those of a dictionary,
    a dataclass or anything nested have the names of their places (``boxes.0``). All share the free axis ``batch``;
    the other axes are those of ``example``, but for ``height`` and ``width`` with ``free_size``. A network that is
    made for one batch (``module.only_batch``) has no free axis. The caller's module is not changed.
    Models above 1.5 GiB have their weights in ``<path>.data``, which must be kept beside the file.
    """
    import onnx
    import torch

    path = Path(path)
    copy = copied(module, "ONNX")
    with undisturbed(), explained(copy, "ONNX"):
        call = call_of(copy, example)
        args, kwargs = call.arguments(call.tensors)
        with torch.no_grad():
            result = copy(*args, **kwargs)
        outputs = list(outputs_by_name(result, call.tensors))
        if [*call.tensors] != [INPUT] or not isinstance(result, torch.Tensor):
            flatten(copy, call)
        free = dict(enumerate((BATCH, None, "height", "width"))) if free_size else {0: BATCH}
        if getattr(module, "only_batch", None) is not None:
            free = {axis: None if name == BATCH else name for axis, name in free.items()}
        program = captured(copy, list(call.tensors.values()), free)
        model = _translate(program, opset, free, list(call.tensors), outputs)
    written = model.model.opset_imports[""]
    if opset not in (None, written):
        raise ExportError(
            f"cannot write opset {opset}: for this network the exporter writes {written}",
            f"give opset {written}, or none",
        )
    tidy(model.model)
    _clean(model, metadata or {})
    with appearing_whole(path) as scratch, _checked(path):
        if MANY <= weight_bytes(model.model) <= ONE_FILE:
            write_in_parts(model.model, scratch)
        else:
            model.save(scratch, external_data=False)
            onnx.checker.check_model(str(scratch), full_check=True)
    return describe(
        path,
        format="onnx",
        precision=_precision(module),
        opset=written,
        notes=tuple(_notes(model)),
    )


def _translate(
    program: ExportedProgram, opset: int | None, free: Free, inputs: list[str], outputs: list[str]
) -> ONNXProgram:
    import torch

    # The program already has its free axes; this restores their names, which it lost.
    names = {axis: name for axis, name in free.items() if name}
    signature = program.graph_signature.user_inputs
    nodes = {node.name: node.meta["val"].shape for node in program.graph.nodes if node.op == "placeholder"}
    shapes: Any = tuple(
        names if names and nodes[name] and not isinstance(nodes[name][0], int) else None for name in signature
    )
    model = torch.onnx.export(
        program,
        dynamo=True,
        dynamic_shapes=shapes if any(shapes) else None,
        input_names=inputs,
        output_names=outputs,
        opset_version=opset,
        verbose=False,
    )
    assert model is not None
    return model


def _clean(program: ONNXProgram, metadata: Mapping[str, str]) -> None:
    """Keep each node's layer name, and remove data about the machine: stack traces, paths."""
    import torch

    model = program.model
    graphs: list[Any] = [model.graph, *model.functions.values()]
    for graph in graphs:
        for node in graph.all_nodes():
            layers = node.metadata_props.get(LAYER_NAMES)
            node.metadata_props.clear()
            if layers is not None:
                node.metadata_props[LAYER_NAMES] = layers
            node.doc_string = None
            for value in (*node.inputs, *node.outputs):
                if value is not None:
                    value.metadata_props.clear()
                    value.doc_string = None
        graph.metadata_props.clear()
    model.producer_name, model.producer_version = PRODUCER, None
    model.metadata_props.clear()
    facts = {"exporter": f"torch {torch.__version__}", **metadata}
    model.metadata_props.update(sorted(facts.items()))


@contextmanager
def _checked(path: Path) -> Iterator[None]:
    """Turn an error of the ONNX checker inside the block into an ExportError of one line."""
    import onnx

    try:
        yield
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"the ONNX checker refuses `{path}`: {first_line(error)}") from error


def _notes(program: ONNXProgram) -> Iterator[str]:
    nodes = program.model.graph.all_nodes()
    remaining = sum(node.op_type == "BatchNormalization" for node in nodes)
    if remaining:
        yield f"{remaining} BatchNormalization nodes stay: no convolution or linear layer next to them can absorb them"


def _precision(module: nn.Module) -> str:
    floating = (p.dtype for p in module.parameters() if p.dtype.is_floating_point)
    name = str(next(floating, "torch.float32")).removeprefix("torch.")
    return _PRECISIONS.get(name, name)
