"""Stand-in for TensorRT's runtime on a CPU: an engine's bytes are an ONNX file, and ONNX Runtime computes it.

It has the names of the bindings (a test compares them with the real ones) and their rules: shapes before addresses,
addresses before a start, one report of every layer for every run. It does not replace a test on a GPU.
"""

from __future__ import annotations

import ctypes
import itertools
import json
import time
from collections.abc import Sequence
from enum import Enum
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

__version__ = "11.4"
BATCHES = (2, 2, 4)
FUSED = {"Relu"}


class TensorIOMode(Enum):
    INPUT, OUTPUT = 1, 2


class LayerInformationFormat(Enum):
    ONELINE, JSON = 1, 2


class Logger:
    ERROR = 1

    def __init__(self, severity: int) -> None:
        assert severity == self.ERROR


class IProfiler:
    def __init__(self) -> None:
        self.ready = True

    def report_layer_time(self, layer_name: str, ms: float) -> None:
        raise NotImplementedError


def nptype(dtype: np.dtype[Any]) -> type:
    return dtype.type


class Runtime:
    def __init__(self, logger: Logger) -> None:
        assert isinstance(logger, Logger)

    def deserialize_cuda_engine(self, content: bytes) -> ICudaEngine | None:
        return None if content == b"for another GPU" else ICudaEngine(content)


class ICudaEngine:
    def __init__(self, content: bytes) -> None:
        self._model = onnx.load_from_string(content)
        self._session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        self._io = {each.name: each for each in (*self._session.get_inputs(), *self._session.get_outputs())}

    @property
    def num_io_tensors(self) -> int:
        return len(self._io)

    def get_tensor_name(self, index: int) -> str:
        return list(self._io)[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        inputs = {each.name for each in self._session.get_inputs()}
        return TensorIOMode.INPUT if name in inputs else TensorIOMode.OUTPUT

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(size if isinstance(size, int) else -1 for size in self._io[name].shape)

    def get_tensor_dtype(self, name: str) -> np.dtype[Any]:
        return np.dtype({"tensor(float)": "f4", "tensor(int64)": "i8"}[self._io[name].type])

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        return [(batch, *self.get_tensor_shape(name)[1:]) for batch in BATCHES]

    def create_execution_context(self) -> IExecutionContext:
        return IExecutionContext(self)

    def create_engine_inspector(self) -> EngineInspector:
        return EngineInspector(self)

    def _layers(self) -> list[list[Any]]:
        """Nodes in the order of execution; an activation is joined with the node before it."""
        layers: list[list[Any]] = []
        for node in self._model.graph.node:
            if node.op_type in FUSED and layers:
                layers[-1].append(node)
            else:
                layers.append([node])
        return layers


class EngineInspector:
    def __init__(self, engine: ICudaEngine) -> None:
        self._engine = engine

    def get_engine_information(self, form: LayerInformationFormat) -> str:
        assert form is LayerInformationFormat.JSON
        layers = [
            {
                "Name": _name(nodes),
                "LayerType": "CaskConvolution" if nodes[0].op_type == "Conv" else "kgen",
                "Outputs": [{"Name": nodes[-1].output[0], "Format/Datatype": "Float NCHW"}],
                "TacticName": f"kernel_of_{nodes[0].op_type}",
                "Metadata": "\x1f".join(f"[ONNX Layer: {node.name}]" for node in nodes),
            }
            for nodes in self._engine._layers()
        ]
        return json.dumps({"Layers": layers, "Bindings": list(self._engine._io)})


class IExecutionContext:
    def __init__(self, engine: ICudaEngine) -> None:
        self._engine = engine
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self.profiler: IProfiler | None = None

    def set_input_shape(self, name: str, shape: Sequence[int]) -> bool:
        declared = self._engine.get_tensor_shape(name)
        fits = all(want in (-1, size) for want, size in zip(declared, shape, strict=True))
        fits = fits and (declared[0] > 0 or BATCHES[0] <= shape[0] <= BATCHES[2])
        if fits:
            self._shapes[name] = tuple(shape)
        return fits

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        if name in self._shapes:
            return self._shapes[name]
        batch = next(iter(self._shapes.values()), (-1,))[0]
        return tuple(batch if size < 0 else size for size in self._engine.get_tensor_shape(name))

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        if set(self._addresses) != set(self._engine._io):
            return False
        named = {each.name: self._array(each.name) for each in self._engine._session.get_inputs()}
        outputs = [each.name for each in self._engine._session.get_outputs()]
        for name, value in zip(outputs, self._engine._session.run(outputs, named), strict=True):
            self._array(name)[...] = value
        if self.profiler is not None:
            assert self.profiler.ready
            for index, nodes in enumerate(self._engine._layers()):
                self.profiler.report_layer_time(_name(nodes), 0.5 + index)
        return True

    def _array(self, name: str) -> np.ndarray[Any, Any]:
        """Memory at an address, as a GPU kernel would access it."""
        dtype, shape = self._engine.get_tensor_dtype(name), self.get_tensor_shape(name)
        size = int(np.prod(shape)) * dtype.itemsize
        memory = (ctypes.c_char * size).from_address(self._addresses[name])
        return np.frombuffer(memory, dtype).reshape(shape)


def _name(nodes: list[Any]) -> str:
    return " + ".join(node.name for node in nodes)


class Event:
    """An event on the clock of the host, the only one without a GPU."""

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing
        self.at = 0.0

    def record(self) -> None:
        self.at = time.perf_counter()

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, end: Event) -> float:
        return (end.at - self.at) * 1e3


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulate a GPU with TensorRT, whose engines are ONNX files."""
    import sys

    library = sys.modules[__name__]
    monkeypatch.setattr("compressor.exporting.engine_session.load_tensorrt", lambda doing: library)
    monkeypatch.setattr("compressor.exporting.tensorrt.load_tensorrt", lambda doing: library)
    monkeypatch.setattr("compressor.exporting.tensorrt._gpu", lambda: ("stand-in", "1.0"))
    monkeypatch.setattr(
        "compressor.exporting.tensorrt.built",
        lambda library, source, *_: (source.read_bytes(), ["INFO: built"]),
    )
    monkeypatch.setattr("compressor.exporting.engine_session.DEVICE", "cpu")
    monkeypatch.setattr("compressor.exporting.engine_session._gpu_here", lambda: "stand-in")
    stream = SimpleNamespace(cuda_stream=0, synchronize=lambda: None)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "Event", Event)


def names_of(module: Any) -> set[str]:
    """Missing names of a library, out of those that the product uses: classes and their members."""
    classes = [Runtime, ICudaEngine, EngineInspector, IExecutionContext, IProfiler]
    own = ([cls.__name__, name] for cls in classes for name in vars(cls) if not name.startswith("_"))
    own_fields = (["IExecutionContext", "profiler"],)
    values = (["LayerInformationFormat", "JSON"], ["TensorIOMode", "INPUT"], ["TensorIOMode", "OUTPUT"])
    missing = set()
    for path in itertools.chain(own, own_fields, values, (["Logger", "ERROR"], ["nptype"])):
        found = module
        for part in path:
            found = getattr(found, part, None)
        if found is None:
            missing.add(".".join(path))
    return missing
