from __future__ import annotations

import gc
import hashlib
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from compressor.errors import ExportError
from compressor.exporting import Artifact, compare, open_session, to_onnx

from .networks import (
    Asks,
    Decomposes,
    DepthwiseWithGate,
    FixesBatch,
    FlattenAndLinear,
    NothingToFoldInto,
    Residual,
    TwoOutputs,
    inside,
    settled,
)

# float32, and a sum of a few hundred products: rounding stays well below 1e-5 of the largest.
TOLERANCE = 1e-5
EXAMPLE = torch.zeros(1, 3, 12, 12)
BATCHES = [np.random.default_rng(size).normal(size=(size, 3, 12, 12)).astype(np.float32) for size in (1, 8)]


def function_of(network: nn.Module) -> Callable[[np.ndarray], np.ndarray]:
    network = network.eval()

    def run(batch: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return network(torch.from_numpy(batch)).numpy()

    return run


def operators_in(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(path).graph.node]


@pytest.fixture(scope="module")
def residual(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Artifact]:
    network = settled(Residual())
    path = tmp_path_factory.mktemp("residual") / "model.onnx"
    return network, to_onnx(network, EXAMPLE, path, metadata={"b": "2", "a": "1"})


@pytest.mark.parametrize(
    ("network", "norms_left"),
    [(Residual, 0), (DepthwiseWithGate, 0), (FlattenAndLinear, 0), (NothingToFoldInto, 3)],
)
def test_the_artifact_is_the_network_at_batch_1_and_8(
    network: type[nn.Module], norms_left: int, tmp_path: Path
) -> None:
    module = settled(network())
    artifact = to_onnx(module, EXAMPLE, tmp_path / "model.onnx")
    session = open_session(artifact.path, threads=1)

    verdict = compare(
        "onnx",
        function_of(module),
        lambda batch: session(input=batch)["logits"],
        BATCHES,
        relative_tolerance=TOLERANCE,
    )

    assert verdict.passed, verdict.detail
    assert verdict.samples == 9
    operators = operators_in(artifact.path)
    assert operators.count("BatchNormalization") == norms_left
    assert "Dropout" not in operators
    assert any("BatchNormalization" in note for note in artifact.notes) is (norms_left > 0)


def test_several_outputs_have_names_and_share_the_free_axis(tmp_path: Path) -> None:
    module = settled(TwoOutputs())
    session = open_session(to_onnx(module, EXAMPLE, tmp_path / "model.onnx").path, threads=1)

    found = session(input=BATCHES[1])
    with torch.no_grad():
        expected = module.eval()(torch.from_numpy(BATCHES[1]))

    assert [output.name for output in session.outputs] == ["logits", "output_1"]
    assert [output.shape[0] for output in session.outputs] == ["batch", "batch"]
    for name, tensor in zip(found, expected, strict=True):
        np.testing.assert_allclose(found[name], tensor.numpy(), rtol=1e-4, atol=1e-4)


def test_the_artifact_says_what_was_written(residual: tuple[nn.Module, Artifact]) -> None:
    artifact = residual[1]
    model = onnx.load(artifact.path)

    assert artifact.format == "onnx"
    assert artifact.precision == "fp32"
    assert artifact.opset == next(o.version for o in model.opset_import if o.domain == "")
    assert artifact.bytes == artifact.path.stat().st_size
    assert artifact.sha256 == hashlib.sha256(artifact.path.read_bytes()).hexdigest()
    assert artifact.notes == ()
    assert [path.name for path in artifact.path.parent.iterdir()] == ["model.onnx"]
    onnx.checker.check_model(model, full_check=True)


def test_metadata_is_in_the_file_in_sorted_order(residual: tuple[nn.Module, Artifact]) -> None:
    model = onnx.load(residual[1].path)

    keys = [entry.key for entry in model.metadata_props]
    assert keys == ["a", "b", "exporter"]
    assert model.metadata_props[0].value == "1"
    assert model.producer_name == "compress-to-edge"


def test_nodes_keep_the_name_of_their_layer(residual: tuple[nn.Module, Artifact]) -> None:
    nodes = onnx.load(residual[1].path).graph.node

    layers = ["".join(entry.value for entry in node.metadata_props) for node in nodes]
    # A folded convolution has the names of the batch norm that was folded into it.
    for layer in ("bn1", "bn2", "relu", "head"):
        assert any(f"'{layer}'" in names for names in layers), layer


def test_the_file_tells_nothing_about_the_machine(residual: tuple[nn.Module, Artifact]) -> None:
    content = residual[1].path.read_bytes()

    for folder in (Path(torch.__file__).parent, Path(__file__).parent, Path.cwd(), Path.home()):
        assert str(folder).encode() not in content
    assert b".py" not in content


def test_two_exports_are_the_same_bytes_even_from_another_process(
    residual: tuple[nn.Module, Artifact], tmp_path: Path
) -> None:
    network, first = residual
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    program = (
        "import torch\nfrom pathlib import Path\nfrom export import to_onnx\n"
        "from tests.export.networks import Residual\n"
        "network = Residual(); network.load_state_dict(torch.load('{0}/weights.pt'))\n"
        "example = torch.zeros(1, 3, 12, 12)\n"
        "to_onnx(network, example, Path('{0}/other.onnx'), metadata={{'a': '1', 'b': '2'}})\n"
    )
    subprocess.run(
        [sys.executable, "-c", program.format(tmp_path)],
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "7"},
    )

    assert (tmp_path / "other.onnx").read_bytes() == first.path.read_bytes()


def test_the_callers_module_is_not_touched(tmp_path: Path) -> None:
    module = settled(Residual())
    module.bn2.eval()
    hook = module.conv1.register_forward_hook(lambda _layer, _inputs, output: output * 2)
    module(torch.rand(4, 3, 12, 12)).sum().backward()
    example = torch.rand(2, 3, 12, 12)
    modes = {name: layer.training for name, layer in module.named_modules()}
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    grads = {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}
    storage = [p.data_ptr() for p in module.parameters()]
    seen = example.clone()

    artifact = to_onnx(module, example, tmp_path / "model.onnx")

    assert {name: layer.training for name, layer in module.named_modules()} == modes
    assert [p.data_ptr() for p in module.parameters()] == storage
    assert all(p.requires_grad for p in module.parameters())
    assert list(module.conv1._forward_hooks) == [hook.id]
    assert torch.equal(example, seen)
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor, state[name]), name
    assert len(grads) == len(list(module.parameters()))
    for name, parameter in module.named_parameters():
        assert torch.equal(parameter.grad, grads[name]), name
    # A hook that changes the numbers is part of what the module computes.
    session = open_session(artifact.path)
    assert compare("hooked", function_of(module), lambda x: session(input=x)["logits"], BATCHES).passed


def test_an_export_prints_nothing_even_when_the_opset_cannot_be_written(
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    recwarn: pytest.WarningsRecorder,
    tmp_path: Path,
) -> None:
    to_onnx(settled(Residual()), EXAMPLE, tmp_path / "model.onnx")
    with pytest.raises(ExportError, match=r"cannot write opset 99: .* writes \d+"):
        to_onnx(settled(Residual()), EXAMPLE, tmp_path / "other.onnx", opset=99)

    assert not (tmp_path / "other.onnx").exists()
    assert capfd.readouterr() == ("", "")
    assert not recwarn.list
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert gc.isenabled()
    assert logging.root.manager.disable == 0


def test_half_precision_is_named_and_a_known_opset_is_honoured(tmp_path: Path) -> None:
    module = settled(FlattenAndLinear()).half()

    artifact = to_onnx(module, EXAMPLE.half(), tmp_path / "model.onnx", opset=18)

    assert (artifact.precision, artifact.opset, artifact.notes) == ("fp16", 18, ())
    assert open_session(artifact.path).inputs[0].dtype == "float16"


@pytest.mark.parametrize(
    ("layer", "facts"),
    [
        (Asks(), ("layer `features.1`", "values of the input", "(networks.py:")),
        (Decomposes(), ("layer `features.1`", "svd` has no ONNX form")),
        (FixesBatch(), ("its code fixes the batch size",)),
        (nn.Conv2d(7, 3, 1), ("layer `features.1`", "RuntimeError")),
    ],
)
def test_a_failing_export_names_the_cause_and_leaves_the_old_file(
    layer: nn.Module,
    facts: tuple[str, ...],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"yesterday's model")

    with pytest.raises(ExportError) as caught:
        to_onnx(inside(layer), EXAMPLE, path)

    message = str(caught.value)
    assert message.startswith("cannot export `Module` to ONNX")
    assert "\n" not in message
    for fact in facts:
        assert fact in message
    assert caught.value.__cause__ is not None
    assert path.read_bytes() == b"yesterday's model"
    assert list(tmp_path.iterdir()) == [path]
    assert capfd.readouterr() == ("", "")
    assert gc.isenabled()
    assert logging.root.manager.disable == 0


def test_a_module_that_cannot_be_copied_is_an_export_error(tmp_path: Path) -> None:
    module = nn.Linear(3, 3)
    module.cache = module(torch.ones(3))  # a tensor that is no leaf of the autograd graph cannot be copied

    with pytest.raises(ExportError, match="cannot export `Linear` to ONNX: it cannot be copied"):
        to_onnx(module, torch.ones(2, 3), tmp_path / "model.onnx")


def test_a_file_that_cannot_be_written_is_an_export_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")

    with pytest.raises(ExportError, match=r"cannot write `.*model\.onnx`"):
        to_onnx(nn.Linear(3, 3), torch.ones(2, 3), tmp_path / "file" / "model.onnx")


def test_one_corrupted_weight_in_the_file_fails_the_comparison(
    residual: tuple[nn.Module, Artifact], tmp_path: Path
) -> None:
    network, artifact = residual
    model = onnx.load(artifact.path)
    weight = next(entry for entry in model.graph.initializer if entry.name == "head.weight")
    values = onnx.numpy_helper.to_array(weight).copy()
    values[0, 0] += 0.01
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    onnx.save(model, tmp_path / "corrupt.onnx")
    good, bad = open_session(artifact.path), open_session(tmp_path / "corrupt.onnx")
    reference = function_of(network)

    assert compare("good", reference, lambda x: good(input=x)["logits"], BATCHES).passed
    assert not compare("bad", reference, lambda x: bad(input=x)["logits"], BATCHES).passed


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    "alexnet convnext_tiny densenet121 efficientnet_b0 efficientnet_v2_s googlenet maxvit_t "
    "mnasnet0_5 mobilenet_v2 mobilenet_v3_small regnet_y_400mf resnet18 resnext50_32x4d "
    "shufflenet_v2_x0_5 squeezenet1_1 swin_t swin_v2_t vgg11_bn vit_b_16".split(),
)
def test_one_model_of_each_torchvision_family_is_its_artifact(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    models = pytest.importorskip("torchvision.models")
    module = models.get_model(name, weights=None, **({"init_weights": True} if name == "googlenet" else {}))
    example = torch.zeros(1, 3, 224, 224)
    capfd.readouterr()

    artifact = to_onnx(module, example, tmp_path / "model.onnx")

    assert capfd.readouterr() == ("", "")
    session = open_session(artifact.path)
    generator = np.random.default_rng(0)
    batches = [generator.normal(size=(n, 3, 224, 224)).astype(np.float32) for n in (1, 3)]
    verdict = compare("onnx", function_of(module), lambda x: session(input=x)["logits"], batches)
    assert verdict.passed, verdict.detail


@pytest.mark.slow
def test_a_model_too_large_for_one_file_brings_its_weights_along(tmp_path: Path) -> None:
    module = nn.Linear(20_000, 22_000, bias=False)  # 1.76 GB

    artifact = to_onnx(module, torch.zeros(1, 20_000), tmp_path / "model.onnx")

    assert {file.name for file in tmp_path.iterdir()} == {"model.onnx", "model.onnx.data"}
    assert artifact.bytes > 22_000 * 20_000 * 4
    session = open_session(artifact.path)
    batches = [np.random.default_rng(0).normal(size=(2, 20_000)).astype(np.float32)]
    assert compare("large", function_of(module), lambda x: session(input=x)["logits"], batches).passed


def test_a_file_written_in_parts_is_one_model_the_same_as_written_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 600), nn.ReLU(), nn.Linear(600, 5)).eval()
    whole = to_onnx(network, torch.zeros(1, 3, 16, 16), tmp_path / "whole.onnx")
    monkeypatch.setattr("compressor.exporting.onnx.MANY", 0)
    parts = to_onnx(network, torch.zeros(1, 3, 16, 16), tmp_path / "parts.onnx")
    again = to_onnx(network, torch.zeros(1, 3, 16, 16), tmp_path / "again.onnx")

    assert parts.sha256 == again.sha256
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.onnx", "parts.onnx", "whole.onnx"]
    models = [onnx.load(artifact.path) for artifact in (whole, parts)]
    onnx.checker.check_model(models[1], full_check=True)
    tensors = [{each.name: each.SerializeToString() for each in model.graph.initializer} for model in models]
    assert tensors[0] == tensors[1]
    assert len(tensors[1]) == len(models[1].graph.initializer)
    for model in models:
        del model.graph.initializer[:]
    assert models[0].SerializeToString(deterministic=True) == models[1].SerializeToString(deterministic=True)
    x = np.random.default_rng(0).normal(size=(3, 3, 16, 16)).astype(np.float32)
    found = [open_session(artifact.path)(input=x)["logits"] for artifact in (whole, parts)]
    np.testing.assert_array_equal(*found)


def test_the_copy_that_is_exported_shares_tensors_and_leaves_the_network_alone(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout()).train()
    before = {name: (tensor.data_ptr(), tensor.clone()) for name, tensor in network.state_dict().items()}
    to_onnx(network, torch.zeros(1, 3, 8, 8), tmp_path / "n.onnx")
    assert all(module.training for module in network.modules())
    for name, tensor in network.state_dict().items():
        assert tensor.data_ptr() == before[name][0]
        assert torch.equal(tensor, before[name][1])
    assert all(parameter.requires_grad for parameter in network.parameters())
