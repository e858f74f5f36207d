"""From a name to a fresh network: every way to name one, and a clear word for every way to fail."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from compressor.errors import CompressError, UsageError
from compressor.models.glyphnet import GlyphNet
from compressor.models.names import ModelSource, build, load_attribute
from compressor.models.weights import fetch_pretrained


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty current folder, whose modules are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    known = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - known:
        del sys.modules[name]


def classes_of(network: nn.Module, side: int = 32) -> int:
    return int(network(torch.zeros(2, 3, side, side)).shape[1])


def test_the_built_in_network_is_built_with_the_classes_asked_for() -> None:
    network = build(ModelSource("glyphnet", 7))
    assert isinstance(network, GlyphNet)
    assert classes_of(network) == 7
    assert classes_of(build(ModelSource("glyphnet"))) == 36


def test_a_torchvision_network_is_built_in_evaluation_mode() -> None:
    network = build(ModelSource("squeezenet1_1", 4))
    assert not any(module.training for module in network.modules())
    assert classes_of(network, 64) == 4


def test_networks_with_auxiliary_heads_are_built_without_them() -> None:
    network = build(ModelSource("googlenet", 4))
    assert isinstance(network.train()(torch.zeros(2, 3, 64, 64)), torch.Tensor)


def test_a_timm_network_is_built() -> None:
    pytest.importorskip("timm")
    assert classes_of(build(ModelSource("timm:mobilenetv3_small_050", 4))) == 4


@pytest.mark.parametrize(
    ("name", "shape", "outputs"),
    [
        ("lraspp_mobilenet_v3_large", (1, 3, 64, 64), 1),
        ("r3d_18", (1, 3, 4, 32, 32), 1),
        ("raft_small", None, 0),
    ],
)
def test_torchvisions_networks_of_other_tasks_have_names_too(
    name: str, shape: tuple[int, ...] | None, outputs: int
) -> None:
    network = build(ModelSource(name))
    if shape is not None:
        with torch.no_grad():
            found = network(torch.zeros(shape))
        assert len(found if isinstance(found, dict) else [found]) == outputs


def test_networks_in_eight_bits_are_no_networks_to_compress() -> None:
    with pytest.raises(UsageError, match="unknown model `quantized_resnet18`"):
        build(ModelSource("quantized_resnet18"))


@pytest.mark.parametrize(
    ("name", "package", "extra"),
    [("hf:resnet", "transformers", "hf"), ("smp:Unet", "segmentation_models_pytorch", "segmentation")],
)
def test_a_library_that_is_not_installed_says_how_it_is(
    name: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UsageError, match=f"`{name}` needs the package") as caught:
        build(ModelSource(name))
    assert f"compress-to-edge[{extra}]" in str(caught.value.hint)


class _Config:
    """A configuration of the library, as far as a builder reads it."""

    num_labels = 2


class _Record:
    def __init__(self, logits: torch.Tensor) -> None:
        self.logits = logits


class _Classifier(nn.Module):
    """A classifier of the library: it takes ``pixel_values`` and returns a record."""

    def __init__(self, config: _Config) -> None:
        super().__init__()
        self.head = nn.Linear(3, config.num_labels)

    def forward(self, pixel_values: torch.Tensor) -> _Record:
        return _Record(self.head(pixel_values.mean((2, 3))))


class _Auto:
    from_config = staticmethod(_Classifier)


class _Transformers:
    """The part of ``transformers`` that is used; the real one is run by ``benchmarks/strangers.py``."""

    CONFIG_MAPPING: dict[str, type[_Config]] = {"resnet": _Config}  # noqa: RUF012
    AutoModelForImageClassification = _Auto


def test_a_classifier_of_hugging_face_becomes_a_function_to_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", _Transformers)  # type: ignore[misc]
    assert classes_of(build(ModelSource("hf:resnet", 7))) == 7
    with pytest.raises(UsageError, match="unknown Hugging Face model type `resnt`") as caught:
        build(ModelSource("hf:resnt"))
    assert "`resnet`" in str(caught.value.hint)


def test_a_folder_of_hugging_face_is_built_and_its_weights_are_read(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=4)
    saved = transformers.ResNetForImageClassification(config)
    saved.save_pretrained(tmp_path)
    source = ModelSource(f"hf:{tmp_path}", 4)
    network = build(source)
    fetch_pretrained(network, source)
    image = torch.randn(1, 3, 32, 32)
    assert torch.equal(network(image), saved.eval()(image).logits)


def test_a_factory_in_the_current_folder_is_found(here: Path) -> None:
    (here / "mine_a.py").write_text(
        "from torch import nn\n"
        "def make(num_classes=3):\n    return nn.Sequential(nn.Flatten(), nn.Linear(3072, num_classes))\n"
        "def fixed():\n    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 9))\n"
    )
    assert classes_of(build(ModelSource("mine_a:make", 6))) == 6
    assert classes_of(build(ModelSource("mine_a:make"))) == 3
    assert classes_of(build(ModelSource("mine_a:fixed", 6))) == 9  # it takes no number of classes


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ("resnet81", "unknown model `resnet81`", "`resnet18`"),
        ("glyphnt", "unknown model `glyphnt`", "`glyphnet`"),
        (
            "runs/nothing",
            "unknown model `runs/nothing`: there is no such folder or file",
            "a run folder has student/",
        ),
        (
            "nowhere_at_all:make",
            "cannot import model `nowhere_at_all:make`: no module named",
            "run from the folder",
        ),
        ("torch.nn:Liner", "unknown model `torch.nn:Liner`", "`torch.nn:Linear`"),
        ("math:pi", "model `math:pi` is a float, expected a function or class", ""),
    ],
)
def test_a_wrong_name_is_a_mistake_with_a_way_out(name: str, message: str, hint: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        build(ModelSource(name))
    assert hint in (caught.value.hint or "")


def test_an_unknown_timm_name_suggests_the_nearest() -> None:
    pytest.importorskip("timm")
    with pytest.raises(UsageError, match="unknown timm model `resnet81`") as caught:
        build(ModelSource("timm:resnet81"))
    assert "did you mean" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("raise RuntimeError('no luck')", "model factory `{}:make` failed: RuntimeError: no luck"),
        ("return {}", "`{}:make` gave a dict, expected a torch.nn.Module"),
        ("return None", "`{}:make` gave a NoneType, expected a torch.nn.Module"),
    ],
)
def test_a_factory_that_fails_is_named(here: Path, body: str, message: str) -> None:
    module = f"mine_{abs(hash(body))}"
    (here / f"{module}.py").write_text(f"def make():\n    {body}\n")
    with pytest.raises(CompressError) as caught:
        build(ModelSource(f"{module}:make"))
    assert str(caught.value) == message.replace("{}", module, 1)


def test_a_factory_that_needs_more_than_a_number_of_classes_is_named(here: Path) -> None:
    (here / "mine_b.py").write_text("def make(width):\n    pass\n")
    with pytest.raises(CompressError, match=r"model factory `mine_b:make` failed: TypeError: .*'width'"):
        build(ModelSource("mine_b:make"))


def test_a_builtin_without_a_signature_is_no_factory() -> None:
    with pytest.raises(CompressError, match="model factory `builtins:dict` failed"):
        build(ModelSource("builtins:dict"))


def test_a_module_that_cannot_be_imported_says_why(here: Path) -> None:
    (here / "mine_c.py").write_text("1 / 0\n")
    with pytest.raises(CompressError, match="cannot import model `mine_c:make`: ZeroDivisionError"):
        load_attribute("mine_c:make", "model")
    (here / "mine_d.py").write_text("import not_installed_anywhere\n")
    with pytest.raises(UsageError, match="no module named `not_installed_anywhere`"):
        load_attribute("mine_d:make", "model")


def test_a_source_survives_plain_values() -> None:
    source = ModelSource("timm:resnet18", 5)
    assert ModelSource(**source.to_dict()) == source
