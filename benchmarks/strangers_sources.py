"""Small networks of other people by their names, built from configurations without a download."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from difficult_networks import DIFFICULT
from torch import Tensor, nn
from torchvision import models

from compressor.pruning.graph.recording.example import inputs_of

IMAGE = (1, 3, 64, 64)


@dataclass(frozen=True)
class Stranger:
    """A network and the inputs that it is traced with."""

    network: nn.Module
    inputs: Any


SMALL: dict[str, Any] = {
    **dict.fromkeys(
        "hidden_size d_model n_embd embed_dim dim encoder_hidden_dim decoder_hidden_dim".split(), 32
    ),
    **dict.fromkeys("num_hidden_layers n_layer n_layers num_layers encoder_layers decoder_layers".split(), 2),
    **dict.fromkeys(
        "num_attention_heads n_head n_heads num_heads encoder_attention_heads decoder_attention_heads".split(),
        4,
    ),
    **dict.fromkeys(
        "intermediate_size ffn_dim encoder_ffn_dim decoder_ffn_dim d_ff n_inner hidden_dim".split(), 64
    ),
    "num_key_value_heads": 2,
    "head_dim": 8,
    "kv_channels": 8,
    "vocab_size": 99,
    "image_size": 64,
    "max_position_embeddings": 64,
    "num_labels": 5,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "use_cache": False,
    "use_pretrained_backbone": False,
    "num_queries": 10,
}
"""Values of a small network, for the entries that its configuration has."""

STAGES = {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1]}
PYRAMID = {**STAGES, "num_attention_heads": [1, 2, 4, 8]}
SHIFTED = {"embed_dim": 16, "depths": [1, 1], "num_heads": [2, 4], "window_size": 4}
AUDIO = {
    "conv_dim": [16, 16],
    "conv_stride": [4, 2],
    "conv_kernel": [8, 4],
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
    "classifier_proj_size": 16,
}
FOUR_LAYERS = {"num_hidden_layers": 4, "out_indices": [1, 2, 3, 4]}
VISION = {"image_size": 64, "patch_size": 16, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
          "num_attention_heads": 4}  # fmt: skip

OWN: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("swin", "swinv2", "donut-swin"), SHIFTED),
    "focalnet": {**SHIFTED, "hidden_sizes": [16, 32], "focal_levels": [2, 2], "focal_windows": [3, 3]},
    **dict.fromkeys(("segformer", "glpn", "pvt", "pvt_v2"), PYRAMID),
    **dict.fromkeys(("convnext", "convnextv2", "poolformer"), STAGES),
    "hiera": {"embed_dim": 16, "image_size": [64, 64], "num_heads": [1, 2, 4, 8], "depths": [1, 1, 1, 1]},
    "resnet": {"embedding_size": 16, "hidden_sizes": [32, 64], "depths": [1, 1]},
    "regnet": {"embedding_size": 16, "hidden_sizes": [32, 64], "depths": [1, 1], "groups_width": 8},
    "bit": {"embedding_size": 32, "hidden_sizes": [32, 64], "depths": [1, 1], "num_groups": 8},
    "beit": FOUR_LAYERS,
    "data2vec-vision": {"num_hidden_layers": 4, "out_indices": [0, 1, 2, 3]},
    "dpt": {"num_hidden_layers": 4, "backbone_out_indices": [0, 1, 2, 3], "neck_hidden_sizes": [16, 16, 16, 16],
            "fusion_hidden_size": 16},
    **{key: {"vision_config": VISION} for key in ("clip", "siglip")},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "gpt2": {"n_positions": 64},
    "audio-spectrogram-transformer": {"max_length": 64, "num_mel_bins": 32},
    **dict.fromkeys("wav2vec2 hubert wavlm data2vec-audio unispeech sew".split(), AUDIO),
}  # fmt: skip
"""Values for configurations whose own entries must fit together."""

AS_THEY_ARE = (
    "convnext",
    "convnextv2",
    "cvt",
    "d_fine",
    "deformable_detr",
    "efficientnet",
    "mobilenet_v1",
    "mobilenet_v2",
    "rt_detr",
    "rt_detr_v2",
)
"""Configurations whose entries depend on each other so much that the network is taken as it comes."""

HF = {
    "ImageClassification": """beit bit clip convnext convnextv2 cvt data2vec-vision deit dinov2 dinov2_with_registers
        donut-swin efficientnet focalnet hgnet_v2 hiera ijepa levit mobilenet_v1 mobilenet_v2 mobilevit mobilevitv2
        poolformer pp_lcnet pvt pvt_v2 regnet resnet segformer siglip swiftformer swin swinv2 textnet vit vit_msn""",
    "SemanticSegmentation": "beit data2vec-vision dpt mobilenet_v2 mobilevit mobilevitv2 segformer",
    "ObjectDetection": """conditional_detr dab-detr d_fine deformable_detr detr rt_detr rt_detr_v2
        table-transformer yolos""",
    "DepthEstimation": "glpn dpt",
    "SequenceClassification": """albert bert camembert convbert deberta deberta-v2 distilbert electra ernie fnet
        layoutlm mobilebert modernbert mpnet nystromformer roberta roformer squeezebert xlm-roberta""",
    "CausalLM": "biogpt bloom falcon gemma gpt2 gpt_neo gpt_neox gptj llama mistral opt phi qwen2 qwen3 stablelm xglm",
    "AudioClassification": "audio-spectrogram-transformer data2vec-audio hubert sew unispeech wav2vec2 wavlm",
}


def _hf(name: str) -> Stranger:
    import transformers
    from transformers import CONFIG_MAPPING

    task, _, kind = name.partition("/")
    config_class = CONFIG_MAPPING[kind]
    config = config_class()
    changes = {key: value for key, value in SMALL.items() if hasattr(config, key) and kind not in AS_THEY_ARE}
    changes = {
        k: v
        for k, v in changes.items()
        if isinstance(getattr(config, k), type(v) | type(None)) or k == "num_labels"
    }
    config = config_class(**{**changes, **OWN.get(kind, {})})
    auto = getattr(transformers, f"AutoModelFor{task}")
    known = auto._model_mapping[config_class]
    if isinstance(known, tuple):  # of several classes for the task it wants to be told one
        config.architectures = [known[0].__name__]
    network = auto.from_config(config, attn_implementation="eager").eval()
    _nothing_is_zero(network)
    if "Audio" in task:
        mels = getattr(config, "num_mel_bins", None)
        value = (
            torch.randn(1, 400) if mels is None else torch.randn(1, getattr(config, "max_length", 100), mels)
        )
        return Stranger(network, {"input_values": value})
    if task in ("SequenceClassification", "CausalLM"):
        words = torch.randint(3, 90, (1, 16))
        return Stranger(network, {"input_ids": words, "attention_mask": torch.ones_like(words)})
    return Stranger(network, {"pixel_values": torch.randn(IMAGE)})


SMP = """Unet/resnet18 UnetPlusPlus/resnet18 MAnet/resnet18 Linknet/resnet18 FPN/resnet18 PSPNet/resnet18 PAN/resnet18
    DeepLabV3/resnet18 DeepLabV3Plus/resnet18 UPerNet/resnet18 Segformer/resnet18 Unet/mobilenet_v2 Unet/efficientnet-b0
    FPN/timm-regnetx_002 Unet/densenet121 Linknet/mobilenet_v2 FPN/efficientnet-b0 Unet/mit_b0 Segformer/mit_b0
    DeepLabV3Plus/mobilenet_v2 Unet/vgg11_bn DPT/tu-vit_tiny_patch16_224""".split()


def _smp(name: str) -> Stranger:
    import segmentation_models_pytorch as smp

    kind, _, encoder = name.partition("/")
    more = {"dynamic_img_size": True} if kind == "DPT" else {}
    network = getattr(smp, kind)(encoder, encoder_weights=None, classes=3, **more).eval()
    _nothing_is_zero(network)
    return Stranger(network, torch.randn(1, 3, 128, 128))


WHOLE = """fcn_resnet50 fcn_resnet101 deeplabv3_resnet50 deeplabv3_mobilenet_v3_large deeplabv3_resnet101
    lraspp_mobilenet_v3_large r3d_18 mc3_18 r2plus1d_18 s3d mvit_v2_s swin3d_t retinanet_resnet50_fpn fcos_resnet50_fpn
    ssdlite320_mobilenet_v3_large ssd300_vgg16 fasterrcnn_mobilenet_v3_large_fpn keypointrcnn_resnet50_fpn
    raft_small googlenet inception_v3""".split()


class Dense(nn.Module):
    """The part of a detector before boxes are chosen: features, and predictions at every place."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.backbone = detector.backbone
        self.head = getattr(detector, "head", None) or detector.rpn.head

    def forward(self, x: Tensor) -> Any:
        features = self.backbone(x)
        maps = [features] if isinstance(features, Tensor) else list(features.values())
        return self.head(maps)


def _torchvision(name: str) -> Stranger:
    builder = models.get_model_builder(name)
    known = inspect.signature(builder).parameters
    more = {"weights_backbone": None} if "weights_backbone" in known else {}
    if name in ("googlenet", "inception_v3"):
        more = {"aux_logits": True, "init_weights": False, "num_classes": 10}
    network = builder(weights=None, **more).eval()
    _nothing_is_zero(network)
    if hasattr(network, "backbone") and hasattr(network, "transform"):
        return Stranger(Dense(network).eval(), torch.randn(1, 3, 128, 128))
    if name.startswith("raft"):
        return Stranger(
            network,
            {
                "image1": torch.randn(1, 3, 128, 128),
                "image2": torch.randn(1, 3, 128, 128),
                "num_flow_updates": 2,
            },
        )
    if name in ("r3d_18", "mc3_18", "r2plus1d_18", "s3d", "mvit_v2_s", "swin3d_t"):
        side, frames = (224, 16) if name in ("mvit_v2_s", "s3d") else (64, 8)
        return Stranger(network, torch.randn(1, 3, frames, side, side))
    return Stranger(
        network,
        torch.randn(1, 3, 299 if name == "inception_v3" else 96, 299 if name == "inception_v3" else 96),
    )


def _difficult(name: str) -> Stranger:
    torch.manual_seed(0)
    network, inputs = DIFFICULT[name]()
    return Stranger(network.eval(), inputs)


def _nothing_is_zero(network: nn.Module) -> None:
    """Networks begin with zeros in many places, and a comparison of zeros proves nothing."""
    torch.manual_seed(0)
    for tensor in [
        *network.parameters(),
        *(b for n, b in network.named_buffers() if n.endswith(("running_mean",))),
    ]:
        if tensor.is_floating_point() and float(tensor.detach().abs().max()) < 1e-3:
            tensor.data.normal_(0, 0.1)


SOURCES: dict[str, Iterable[str]] = {
    "hf": [f"{task}/{kind}" for task, kinds in HF.items() for kind in kinds.split()],
    "smp": SMP,
    "torchvision": WHOLE,
    "difficult": DIFFICULT,
}
BUILDERS: dict[str, Callable[[str], Stranger]] = {
    "hf": _hf,
    "smp": _smp,
    "torchvision": _torchvision,
    "difficult": _difficult,
}


_latest: list[nn.Module] = []


def latest(classes: int | None = None) -> nn.Module:
    """The network that was built last: what a student folder names as its teacher's class."""
    return copy.deepcopy(_latest[-1])


def named(name: str) -> Stranger:
    """The network of that name, as in ``hf:ImageClassification/swin``."""
    source, _, rest = name.partition(":")
    stranger = BUILDERS[source](rest)
    _latest.append(stranger.network)
    inputs = inputs_of(stranger.inputs)
    with torch.no_grad():
        copy.deepcopy(stranger.network)(
            *inputs.args, **inputs.kwargs
        )  # one that does not run says nothing of us
    return stranger
