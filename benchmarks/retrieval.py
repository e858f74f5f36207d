"""Retrieval after distillation: the CIFAR-10 rows of two papers, with their networks and their schedules.

    python benchmarks/retrieval.py --data PATH --json FILE --threads 1
    python benchmarks/retrieval.py --data PATH --json FILE --auxiliary aux_pkt.model --released *.model

Information flow (IFM, Passalis et al. 2020) and InDistill (Sarridis et al. 2022) teach a network of 15,050 parameters
by an auxiliary one that is twice as wide, without labels. Test images ask and training images answer; mAP is
interpolated at 11 points of recall, as the papers have it, in float64 and over whole rankings. Their teacher is a
ResNet-18; here a ResNet-56 with 93.39 % teaches the auxiliary, unless ``--auxiliary`` gives the one that they released
(a torch file of tensors conv1, conv1_bn … fc2, read without unpickling code). ``--released`` only measures such files.

PATH has ``cifar10/{train,test}/CLASS.webp`` and ``resnet56-cifar10.safetensors``. What FILE holds already is not done
again, and a training that was stopped goes on from its checkpoints beside FILE.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from cifar import SmallCnn, cifar10, resnet56
from record import keep, write_figures
from torch import Tensor, nn

from compressor.commands.retrieval import evaluate_retrieval
from compressor.data.in_memory import crop_and_flip
from compressor.data.scaling import IMAGENET, Scaling
from compressor.data.split import Data
from compressor.methods.layerwise.indistill import curriculum, warm_up_losses
from compressor.methods.layerwise.information_flow import flow_losses, last_loss
from compressor.methods.layerwise.teacher_channels import largest_filters
from compressor.training import Guide, Progress, Schedule, train

SCALING = Scaling((125.3 / 255, 123.0 / 255, 113.9 / 255), (63.0 / 255, 62.1 / 255, 66.7 / 255))
"""The papers' own."""
LAYERS = [(name, name) for name in ("block1", "block2", "block3")]
ROWS = ("ifm", "indistill", "student", "auxiliary", "auxiliary-pkt")
TAUGHT_BY_IT = ("ifm", "indistill")
"""By the auxiliary network after PKT, ours or the released one."""
PUBLISHED = {
    "teacher": (0.8718, 0.9047, 0.9215, 0.9226),
    "auxiliary": (0.4141, 0.4736, 0.6603, 0.7015),
    "auxiliary-pkt": (0.6212, 0.6678, 0.7372, 0.7590),
    "student": (0.3530, 0.3900, 0.5587, 0.5877),
    "ifm": (0.4920, 0.5306, 0.6154, 0.6424),
    "indistill": (0.5047, 0.5461, 0.6260, 0.6540),
}
"""mAP by Euclidean distance and by cosine, precision of the first 100 by both; the last row by InDistill's authors."""
MEASURES = {
    "map_e": "map_11_e",
    "map_c": "map_11_c",
    "top100_e": "precision_100_e",
    "top100_c": "precision_100_c",
}
"""Figures in the order of the published ones, and what each is called in the samples."""
NAMES = {
    "conv1.": "block1.0.", "conv1_bn.": "block1.1.",
    "conv2.": "block2.0.", "conv2_bn.": "block2.1.",
    "conv3.": "block3.0.", "conv3_bn.": "block3.1.",
    "fc1.": "hidden.0.", "fc2.": "head.",
}  # fmt: skip
"""What the released files call the tensors, and what they are called here."""


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--data", type=Path, required=True)
    options.add_argument("--json", type=Path, required=True)
    options.add_argument("--auxiliary", type=Path, help="the released one, after PKT")
    options.add_argument("--released", type=Path, nargs="*", default=[], help="files that are only measured")
    options.add_argument("--rows", default=",".join(ROWS))
    options.add_argument("--seeds", default="0")
    options.add_argument("--images", type=int, default=50_000, help="of the training half")
    options.add_argument(
        "--shorten", type=int, default=1, help="so many times fewer epochs, to try the script"
    )
    options.add_argument("--threads", type=int, help="of torch")
    given = options.parse_args()
    asked = [row for row in given.rows.split(",") if row]
    if unknown := set(asked) - set(ROWS):
        options.error(f"no row `{unknown.pop()}`: there are {', '.join(ROWS)}")
    if given.threads:
        torch.set_num_threads(given.threads)
    data = cifar10(given.data, given.images // 10, 1000, crop_and_flip, SCALING)
    rows: list[dict[str, Any]] = json.loads(given.json.read_text())["samples"] if given.json.exists() else []

    def done(which: Mapping[str, Any]) -> bool:
        return any(which.items() <= row.items() for row in rows)

    def add(which: Mapping[str, Any], network: nn.Module, **more: Any) -> None:
        rows.append({**which, **measured(network, data), **more})
        keep(given.json, figures(rows), rows)
        print({key: value for key, value in rows[-1].items() if key != "losses"}, flush=True)

    origin = given.auxiliary.name if given.auxiliary else "ours"
    others = {row["auxiliary"] for row in rows if row["row"] in TAUGHT_BY_IT} - {origin}
    if others:
        options.error(f"{given.json} has rows taught by auxiliary {others.pop()}: choose another --json")
    about = {"images": given.images, "shorten": given.shorten}
    for seed in map(int, given.seeds.split(",")):
        folder = given.json.with_suffix("") / f"{given.images}-{given.shorten}-{seed}"
        course = Course(data, given.data, folder, given.auxiliary, seed, given.shorten)
        for row in asked:
            which = {"row": row, "seed": seed, **about}
            if row in TAUGHT_BY_IT:
                which["auxiliary"] = origin
            if not done(which):
                start = time.perf_counter()
                network = course.find(row)
                add(which, network, seconds=time.perf_counter() - start)
    for path in given.released:
        if not done({"row": "released", "file": path.name}):
            add({"row": "released", "file": path.name}, released(path))
    write_figures(given.json, figures(rows), rows)


def released(path: Path) -> nn.Module:
    """A network from a file of the authors', student or auxiliary by its width."""
    found = torch.load(path, map_location="cpu", weights_only=True)
    network = SmallCnn(len(found["conv1.weight"]) // 8)
    state = {
        ours + name.removeprefix(theirs): tensor
        for name, tensor in found.items()
        for theirs, ours in NAMES.items()
        if name.startswith(theirs)
    }
    network.load_state_dict(state)
    return network.eval()


@dataclass(frozen=True)
class Course:
    """How each row's network is trained; what was trained already comes from its checkpoints."""

    data: Data
    teacher_folder: Path
    folder: Path
    released_auxiliary: Path | None
    seed: int
    shorten: int

    def find(self, row: str) -> nn.Module:
        """The network of a row."""
        return {
            "student": self.student,
            "auxiliary": self.auxiliary,
            "auxiliary-pkt": self.auxiliary_after_pkt,
            "ifm": self.by_information_flow,
            "indistill": self.by_indistill,
        }[row]()

    def student(self) -> nn.Module:
        return self.trained("student", self.fresh(1), 50, 1e-3)

    def auxiliary(self) -> nn.Module:
        first = self.trained("auxiliary", self.fresh(2), 50, 1e-3)
        return self.trained("auxiliary-slow", first, 30, 1e-4)

    def auxiliary_after_pkt(self) -> nn.Module:
        guide = Guide("teacher", Rescaled(resnet56(self.teacher_folder)))
        losses = (last_loss(),)
        first = self.trained("auxiliary-pkt", self.auxiliary(), 30, 1e-3, guide, losses)
        return self.trained("auxiliary-pkt-slow", first, 10, 1e-4, guide, losses)

    def by_information_flow(self) -> nn.Module:
        guide = self.teaching()
        return self.trained(f"ifm-{self.origin}", self.fresh(1), 50, 1e-3, guide, flow_losses(LAYERS))

    def by_indistill(self) -> nn.Module:
        auxiliary, image = self.teaching().network, torch.zeros(1, *self.data.shape)
        student = self.fresh(1)
        widths = {name: student.get_submodule(name)[0].out_channels for name, _ in LAYERS}
        kept = {name: largest_filters(auxiliary, name, widths[name], image) for name, _ in LAYERS}
        guide = Guide("auxiliary", auxiliary, kept=kept)
        whole = 60 // self.shorten
        epochs = curriculum(len(LAYERS), whole // 2)
        name = f"indistill-{self.origin}"
        losses = warm_up_losses(LAYERS, epochs)
        student = self.trained(f"{name}-warm-up", student, sum(epochs) * self.shorten, 1e-3, guide, losses)
        main = (last_loss(),)
        first = self.trained(name, student, (whole - sum(epochs)) * self.shorten, 1e-3, guide, main)
        return self.trained(f"{name}-slow", first, 10, 1e-4, guide, main)

    @property
    def origin(self) -> str:
        return self.released_auxiliary.stem if self.released_auxiliary else "ours"

    def teaching(self) -> Guide:
        """The auxiliary after PKT: the released one, or ours."""
        path = self.released_auxiliary
        return Guide("auxiliary", released(path) if path else self.auxiliary_after_pkt())

    def fresh(self, times: int) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            return SmallCnn(times)

    def trained(
        self,
        name: str,
        network: nn.Module,
        epochs: int,
        rate: float,
        guide: Guide | None = None,
        losses: tuple[str, ...] = (),
    ) -> nn.Module:
        """Adam at one rate; by labels alone, or by these losses alone."""
        epochs = max(1, epochs // self.shorten)
        schedule = Schedule(
            epochs=epochs,
            optimizer="adam",
            learning_rate=rate,
            annealing="constant",
            weight_decay=0.0,
            warmup_epochs=0.0,
            teacher_loss="none",
            teacher_weight=1.0,
            precision="fp32",
            test_every=epochs,
        )
        return train(
            network,
            self.data,
            schedule,
            guides=[guide] if guide else [],
            losses=losses,
            seed=self.seed,
            checkpoints=self.folder / name,
            progress=lambda now: shown(name, now),
        ).network


class Rescaled(nn.Module):
    """A network that was trained on images of another scaling."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        for name, values in (
            ("mean", SCALING.mean),
            ("std", SCALING.std),
            ("its_mean", IMAGENET.mean),
            ("its_std", IMAGENET.std),
        ):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        pixels = images * self.std + self.mean
        return self.network((pixels - self.its_mean) / self.its_std)


def shown(name: str, now: Progress) -> None:
    if now.over:
        print(
            f"  {name}: epoch {now.epoch}/{now.epochs}, loss {now.loss:.5f}, {now.images_per_second:.0f} images/s",
            flush=True,
        )


def measured(network: nn.Module, data: Data) -> dict[str, Any]:
    """Both metrics, by the names of the figures."""
    found = evaluate_retrieval(network, data)
    return {
        f"{measure}_{metric[0]}": value
        for metric, ranking in found.items()
        for measure, value in ranking.to_dict().items()
    }


def figures(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Means over seeds, by mAP at 11 points, with the published figures beside them."""
    found: dict[str, float] = {}
    for row, file in dict.fromkeys((each["row"], each.get("file")) for each in rows):
        same = [each for each in rows if (each["row"], each.get("file")) == (row, file)]
        about = f"{row}_{Path(file).stem}" if file else row
        for at, (name, measure) in enumerate(MEASURES.items()):
            found[f"{name}_{about}"] = statistics.mean(each[measure] for each in same)
            if row in PUBLISHED:
                found[f"{name}_{about}_published"] = PUBLISHED[row][at]
    return found


if __name__ == "__main__":
    main()
