"""Which runtimes are measured, what is refused, and that every row of the table runs the network that it is given."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from onnx import helper as onnx_helper
from torch import nn

from compressor.artifacts.latency import latencies
from compressor.artifacts.layer_times import layer_rows, nodes_of_engine
from compressor.artifacts.profile import profiled
from compressor.artifacts.runtimes import RUNTIMES, choose
from compressor.commands.subjects import profile_subjects
from compressor.errors import ExportError, UsageError
from compressor.exporting import (
    FORMATS,
    NEEDS,
    RUNNERS,
    Asked,
    EngineLayer,
    derived,
    open_openvino,
    open_session,
    to_onnx,
)
from compressor.profiling.times_by_layer import gathered
from compressor.recipe import ProfileRecipe
from compressor.recipe.names import DEFAULT_RUNTIMES, runtimes_named
from tests.export import stand_in

NO_CUDA = not torch.cuda.is_available()


def network(width: int = 8) -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, 8, 3), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)).eval()


IMAGE = torch.rand(1, 3, 12, 12)
PAIR = {"teacher": network(16), "student": network(8)}


def test_aliases_mean_their_runtime_and_each_is_measured_once() -> None:
    assert runtimes_named(["ort", "torch", "onnxruntime"]) == ("onnxruntime", "pytorch")
    assert set(runtimes_named(["all"])) == set(RUNTIMES)


def test_without_names_what_fits_is_chosen() -> None:
    assert choose((), "fp32", {"teacher": ["network"]}) == (("pytorch",), ())
    assert choose((), "fp32", {"teacher": ["file"]}) == (("onnxruntime",), ())
    assert choose((), "fp32", {"teacher": ["network", "file"]})[0] == DEFAULT_RUNTIMES


def test_what_we_chose_and_cannot_be_is_left_out_and_said() -> None:
    chosen, left_out = choose((), "bf16", {"teacher": ["network", "file"]})
    assert chosen == ("pytorch",)
    assert "onnxruntime is left out" in left_out[0]


@pytest.mark.skipif(not NO_CUDA, reason="there is a CUDA device here")
def test_all_is_what_this_machine_has_and_a_name_is_an_order() -> None:
    chosen, left_out = choose(("all",), "fp32", {"teacher": ["network"]})
    assert {"pytorch", "onnxruntime"} <= set(chosen)
    assert any("pytorch-cuda is left out" in line and "CUDA device" in line for line in left_out)
    with pytest.raises(UsageError, match="`onnxruntime-cuda` needs a CUDA device"):
        choose(("ort-cuda",), "fp32", {"teacher": ["network"]})


def test_a_runtime_that_is_not_installed_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python itself refuses a module whose place in ``sys.modules`` is taken by None."""
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(UsageError, match="needs OpenVINO, which is not installed") as caught:
        choose(("openvino",), "fp32", {"teacher": ["network"]})
    assert "compress-to-edge[openvino]" in str(caught.value.hint)


def test_a_batch_of_rows_is_one_for_each_runtime_with_every_sample_and_the_conditions() -> None:
    asked = ("torch", "ort", *(["openvino"] if find_spec("openvino") else []))
    rows, left_out = latencies(PAIR, {}, IMAGE, ProfileRecipe(runtimes=asked, batches=(1, 4), samples=3))
    assert left_out == ()
    assert [(row["batch"], row["runtime"]) for row in rows] == [
        (batch, name) for batch in (1, 4) for name in runtimes_named(asked)
    ]
    for row in rows:
        assert len(row["teacher"]["samples_ms"]) == len(row["student"]["samples_ms"]) == 3
        assert row["speedup"]["median"] > 0
        assert {"before", "after", "reasons", "energy_mj"} <= row["conditions"].keys()
    assert {row["runtime"]: row["precision"] for row in rows}["onnxruntime"] == "as in the file"


def test_lower_precision_runs_on_a_copy() -> None:
    (row,), _ = latencies(PAIR, {}, IMAGE, ProfileRecipe(runtimes=("torch",), precision="bf16", samples=2))
    assert row["precision"] == "bf16"
    assert {tensor.dtype for tensor in PAIR["teacher"].parameters()} == {torch.float32}


@pytest.mark.skipif(not find_spec("openvino"), reason="OpenVINO is not installed")
def test_openvino_answers_as_onnx_runtime_does(tmp_path: Path) -> None:
    path = to_onnx(network(), IMAGE, tmp_path / "network.onnx").path
    first, second = open_session(path), open_openvino(path, threads=1)
    assert second.inputs[0].name == first.inputs[0].name
    assert second.inputs[0].dtype == "float32"
    images = torch.rand(5, 3, 12, 12).numpy()
    answers = [session(input=images)["logits"] for session in (first, second)]
    # float32 on both sides; sums are taken in another order.
    assert abs(answers[0] - answers[1]).max() <= 1e-5 * abs(answers[0]).max()
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    with pytest.raises(
        ExportError, match=r"cannot open `.*broken.onnx` in OpenVINO: (?!Exception from)"
    ) as caught:
        open_openvino(tmp_path / "broken.onnx")
    assert "\n" not in str(caught.value)


def test_layers_stand_beside_each_other_and_end_in_what_is_left() -> None:
    found = layer_rows(PAIR, {}, IMAGE, ProfileRecipe(samples=5))
    names = [row["layer"] for row in found["layers"]]
    assert {"0", "2", "6"} <= set(names)
    for who in PAIR:
        parts = sum(row.get(who, 0.0) for row in found["layers"])
        assert parts + found["not_attributed"][who] == pytest.approx(found["total"][who])


def test_activations_of_network_and_file_are_in_a_profile(tmp_path: Path) -> None:
    files = {who: to_onnx(each, IMAGE, tmp_path / f"{who}.onnx").path for who, each in PAIR.items()}
    found = profiled(PAIR, files, IMAGE, ProfileRecipe(samples=2))
    # At its peak the second convolution reads 12 × 12 maps, as many as the network is wide, and writes 8 of 10 × 10.
    for who, width in (("teacher", 16), ("student", 8)):
        assert found.counts[who].activation_bytes == 4 * (width * 144 + 8 * 100)
        assert found.file_counts[who].activation_bytes == found.counts[who].activation_bytes


def test_who_proves_a_file_and_who_times_it_have_one_name() -> None:
    for name, runner in RUNNERS.items():
        if name != "onnxruntime-unfused":
            assert RUNTIMES[name].title == runner.title
            assert RUNTIMES[name].needs == runner.needs


def test_a_runtime_says_what_it_runs_when_it_is_given_something_else() -> None:
    with pytest.raises(UsageError, match="`pytorch` runs networks, and the teacher is an ONNX file"):
        choose(("torch",), "fp32", {"teacher": ["file"]})
    with pytest.raises(
        UsageError, match="`onnxruntime` runs ONNX files, and the student is an engine"
    ) as caught:
        choose(("ort",), "fp32", {"teacher": ["file"], "student": ["engine"]})
    assert str(caught.value.hint) == "for engines: tensorrt"


@pytest.mark.skipif(not NO_CUDA, reason="there is a CUDA device here")
def test_tensorrt_needs_a_gpu_to_run(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="`tensorrt` needs a CUDA device"):
        choose(("trt",), "fp32", {"teacher": ["file"]})
    with pytest.raises(UsageError, match="no runtime can measure these subjects here") as caught:
        choose((), "fp32", {"teacher": ["engine"]})
    assert "tensorrt is left out" in str(caught.value.hint)


def test_files_of_other_runtimes_are_timed_where_they_run(tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    pytest.importorskip("executorch", reason="ExecuTorch is not installed")
    network = PAIR["student"]
    onnx = to_onnx(network, IMAGE, tmp_path / "n.onnx").path
    xml = derived("openvino", onnx, tmp_path / "n.xml", Asked()).path
    pte = FORMATS["executorch"].function(network, IMAGE, tmp_path / "n.pte", Asked()).path
    recipe = ProfileRecipe(runtimes=(), samples=3)

    found = profiled({}, {"teacher": onnx, "student": xml}, IMAGE, recipe)
    by_runtime = {row["runtime"]: row for row in found.latency}
    assert by_runtime.keys() == {"onnxruntime", "openvino"}
    assert "student" not in by_runtime["onnxruntime"]
    assert by_runtime["openvino"]["speedup"]["median"] > 0
    (note,) = found.notes
    assert "is an OpenVINO file, which cannot be counted" in note

    (row,) = profiled({}, {"student": pte}, IMAGE, recipe).latency
    assert (row["runtime"], len(row["student"]["samples_ms"])) == ("executorch", 3)
    for path in (xml, pte):
        assert profile_subjects([str(path)], None, recipe).latency
        with pytest.raises(UsageError, match="ONNX Runtime and TensorRT time layers"):
            layer_rows({}, {"student": path}, IMAGE, recipe)


@pytest.mark.parametrize("name", ["n.onnx", "n.xml", "n.pte", "n.engine"])
def test_a_file_that_is_not_there_is_said_to_be_missing(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no file"):
        profile_subjects([str(tmp_path / name)], None, ProfileRecipe())


@pytest.mark.parametrize("suffix", [".xml", ".pte", ".onnx"])
def test_a_broken_file_is_refused_in_one_line(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"n{suffix}"
    path.write_bytes(b"no network at all")
    with pytest.raises(ExportError) as caught:
        profile_subjects([str(path)], None, ProfileRecipe())
    assert "\n" not in str(caught.value)


@pytest.fixture
def tensorrt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stand_in.install(monkeypatch)
    monkeypatch.setenv("COMPRESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("compressor.artifacts.runtimes._has_gpu", lambda: True)
    monkeypatch.setattr("compressor.artifacts.runtimes.NEEDS", {"tensorrt": SimpleNamespace(missing=False)})


@pytest.mark.usefixtures("tensorrt")
def test_networks_and_files_become_engines_for_the_batch_and_are_timed_on_both_clocks() -> None:
    (row,), _ = latencies(PAIR, {}, IMAGE, ProfileRecipe(runtimes=("trt",), batches=(2,), samples=4))
    assert (row["runtime"], row["batch"], row["precision"]) == ("tensorrt", 2, "as in the file")
    for who in PAIR:
        assert len(row[who]["gpu_ms"]) == len(row[who]["samples_ms"]) == 4


@pytest.mark.usefixtures("tensorrt")
def test_an_engine_is_profiled_as_it_is_and_its_layers_are_named(tmp_path: Path) -> None:
    onnx = to_onnx(PAIR["student"], IMAGE, tmp_path / "n.onnx").path
    engine = derived("tensorrt", onnx, tmp_path / "n.engine", Asked()).path
    files = {"student": engine}
    recipe = ProfileRecipe(runtimes=(), batches=(2,), samples=3)
    found = profiled({}, files, IMAGE, recipe)
    assert [row["runtime"] for row in found.latency] == ["tensorrt"]
    assert any("is an engine" in note for note in found.notes)
    layers = layer_rows({}, files, IMAGE, recipe)
    assert layers["runtime"] == "tensorrt"
    assert [row["layer"] for row in layers["layers"]][:2] == ["0", "2"]
    assert layers["layers"][0]["student"] == 0.5


@pytest.mark.usefixtures("tensorrt")
def test_layers_in_tensorrt_stand_under_the_names_of_the_network() -> None:
    found = layer_rows(PAIR, {}, IMAGE, ProfileRecipe(runtimes=("trt",), batches=(2,), samples=3))
    names = [row["layer"] for row in found["layers"]]
    assert {"0", "2", "6"} <= set(names)
    assert {"teacher", "student"} <= found["layers"][0].keys()


def test_a_layer_of_an_engine_is_known_by_its_product_and_one_of_no_node_by_its_kind() -> None:
    nodes = [
        onnx_helper.make_node("DequantizeLinear", ["x", "s"], ["a"], name="conv/dequantise"),
        onnx_helper.make_node("Conv", ["a", "conv.weight"], ["y"], name="conv/Conv"),
    ]
    graph = onnx_helper.make_graph(nodes, "g", [], [])
    layers = (
        EngineLayer("l1", "CaskConvolution", ("conv/dequantise", "conv/Conv"), samples_ms=(1.0,)),
        EngineLayer("l2", "Reformat", (), samples_ms=(2.0,)),
        EngineLayer("weights", "Constant", ("conv/Conv",)),
    )
    found = nodes_of_engine(layers, graph, (4.0,))
    assert [(node.name, node.op) for node in found.nodes] == [("conv/Conv", "Conv"), ("l2", "Reformat")]
    assert [layer.name for layer in gathered(found, graph).layers] == ["conv/Conv", "(Reformat)"]


@pytest.mark.gpu
@pytest.mark.skipif(
    NO_CUDA or NEEDS["tensorrt"].missing, reason="no CUDA device here, or TensorRT is not installed"
)
@pytest.mark.parametrize("graph", [False, True])
def test_an_engine_is_timed_on_a_gpu(graph: bool) -> None:
    recipe = ProfileRecipe(runtimes=("trt",), cuda_graph=graph, samples=20)
    (row,), _ = latencies(PAIR, {}, IMAGE, recipe)
    for who in PAIR:
        assert 0 < row[who]["gpu_median_ms"] <= row[who]["median_ms"]


@pytest.mark.gpu
@pytest.mark.skipif(NO_CUDA, reason="no CUDA device here")
@pytest.mark.parametrize("graph", [False, True])
def test_a_gpu_is_timed_on_both_clocks(graph: bool) -> None:
    recipe = ProfileRecipe(runtimes=("torch-cuda",), cuda_graph=graph, samples=20)
    (row,), _ = latencies(PAIR, {}, IMAGE, recipe)
    assert row["cuda_graph"] is graph
    for who in PAIR:
        assert len(row[who]["gpu_ms"]) == 20
        assert 0 < row[who]["gpu_median_ms"] <= row[who]["median_ms"]
        assert row[who]["gpu_peak_bytes"] > 0
        assert row[who]["launch_bound"] in (True, False)


@pytest.mark.slow
def test_a_compiled_network_is_timed() -> None:
    (row,), _ = latencies(PAIR, {}, IMAGE, ProfileRecipe(runtimes=("torch-compile",), samples=2))
    assert row["student"]["median_ms"] > 0
