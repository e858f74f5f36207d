"""Measure the cost of widths on this machine: time the teacher's file, and its blocks at other widths.

Both together give a cost for choosing widths. Cut networks are exported and timed too. Times are in float32 or in
INT8, whichever ships, because INT8 is fast at other widths.

Blocks are cached as multiples of a reference block, by machine and shape, so that a second run on the same device
measures only new blocks.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from compressor.base.cache import key_of, read_numbers, write_numbers
from compressor.exporting import Asked, Session, derived, open_session, to_onnx
from compressor.exporting.int8 import quantised_on
from compressor.profiling import (
    Between,
    Block,
    BlockTimes,
    NodeTimes,
    Timing,
    blocks_of,
    count_file,
    fingerprint,
    lies_between,
    measure,
    node_times,
    time_blocks,
)
from compressor.profiling.granule import GRANULE_BLOCKS, granule_from
from compressor.profiling.timing import quantile
from compressor.pruning.graph.channels import ChannelGraph
from compressor.pruning.widths.allocate import choices_for
from compressor.pruning.widths.latency_blocks import Beside, latency_from, patterns, wanted_blocks
from compressor.pruning.widths.latency_cost import Latency
from compressor.recipe import ExportRecipe, ProfileRecipe
from compressor.recipe.budget import TIMED_FILES, Budget

PRODUCTS = frozenset(
    "Conv FusedConv ConvTranspose Gemm FusedGemm MatMul FusedMatMul QuickGelu LSTM GRU RNN QLinearConv "
    "QGemm QLinearMatMul MatMulIntegerToFloat".split()
)
"""Nodes of ONNX Runtime that are timed as blocks, or whose time is estimated from blocks."""

NOISE = 4
"""Number of random images that calibrate an INT8 file which is only timed."""

NODE_ROUNDS = 12
SAMPLES = 100
SECONDS = 15.0


@dataclass(frozen=True)
class Real:
    """A network that was built: its plain file, the bytes of that file, and the latency in the format that ships: the
    teacher's latency times the ratio measured now."""

    file: Path
    latency_ms: float
    bytes: int
    contended: bool


class Bench:
    """Times the teacher's file in ONNX Runtime, and students' files beside it, at one batch and number of threads.

    ``timed_as``: the format that is timed (`Budget.timed_as`); blocks and bytes are those of the plain file.
    """

    def __init__(
        self,
        teacher: nn.Module,
        image: Tensor,
        folder: Path,
        export: ExportRecipe,
        profile: ProfileRecipe,
        timed_as: str = TIMED_FILES["latency"],
    ) -> None:
        self._image, self._folder, self._export, self._profile = image[:1], folder, export, profile
        self._timed_as = timed_as
        self.file = self.written(teacher, "teacher")
        self.batch = profile.batches[0]
        self._images = np.repeat(self._image.numpy(), self.batch, axis=0)
        self._session = self._opened(self.file)
        alone = measure({"teacher": self._call(self._session)}, samples=SAMPLES, budget_s=SECONDS)["teacher"]
        self.teacher_ms = quantile(self._clock(alone), 0.5)

    @property
    def about(self) -> str:
        """The runtime, batch and threads of the measurements."""
        threads = self._profile.threads
        where = f"onnxruntime on the CPU{' in INT8' if self._timed_as == TIMED_FILES['latency-int8'] else ''}"
        return f"{where}, batch {self.batch}, {threads} thread{'s' * (threads > 1)}"

    def written(self, network: nn.Module, name: str) -> Path:
        """Write a network as a plain ONNX file, as a run exports it."""
        path = self._folder / f"{name}.onnx"
        self._derived(path).unlink(missing_ok=True)  # made from an earlier network of this name
        return to_onnx(network, self._image, path, opset=self._export.opset).path

    def _derived(self, plain: Path) -> Path:
        return plain.with_suffix(f".{self._timed_as}.onnx")

    def timed(self, files: Sequence[Path]) -> list[Real]:
        """Time files of real networks, interleaved with each other and with the teacher's.

        Interleaved files compete for caches and thread pools: the time of the same file of EfficientNet-B0 differed by
        12 % beside the teacher alone and beside three others. So only times of one call are compared.
        """
        calls = {"teacher": self._call(self._session)}
        calls |= {str(file): self._call(self._opened(file)) for file in files}
        timings = measure(calls, samples=SAMPLES, budget_s=SECONDS * len(calls) / 2)
        teacher = self._clock(timings["teacher"])
        found = []
        for file in files:
            own = timings[str(file)]
            pairs = zip(self._clock(own), teacher, strict=True)
            ratio = quantile([after / max(before, 1e-6) for after, before in pairs], 0.5)
            contended = self._profile.threads > 1 and (own.contended or timings["teacher"].contended)
            found.append(Real(file, ratio * self.teacher_ms, file.stat().st_size, contended))
        return found

    def latency(
        self, graph: ChannelGraph, budget: Budget, moved: Callable[[float], None] = lambda done: None
    ) -> Latency:
        """The cost ``latency`` of this graph on this bench."""
        side = self._image.shape[2:]
        blocks = blocks_of(self.file, side=side, batch=self.batch)
        counts = count_file(self.file, side=side)
        found = patterns(graph, blocks, [layer.macs for layer in counts.layers])
        choices = choices_for(graph, budget)
        times = self._times(wanted_blocks(found, choices), moved)
        nodes = node_times(
            self._shipped(self.file),
            {self._session.inputs[0].name: self._images},
            threads=self._profile.threads,
            rounds=NODE_ROUNDS,
            budget_s=SECONDS,
        )
        return latency_from(
            found,
            graph,
            choices,
            times,
            teacher_ms=self.teacher_ms,
            beside=_beside(nodes, self.teacher_ms, lies_between(self.file, side=side)),
            about=self.about,
        )

    def granule(self) -> int:
        """The granule of this device: between its multiples, a layer takes the time of the next multiple."""
        return granule_from(self._times(list(GRANULE_BLOCKS), lambda done: None).ratios)

    def _times(self, blocks: list[Block], moved: Callable[[float], None]) -> BlockTimes:
        """The times of blocks, from the cache or measured now."""
        facts: dict[str, Any] = {"device": machine(), "threads": self._profile.threads}
        if self._timed_as != "onnx":
            facts["file"] = self._timed_as
        key = key_of(facts)
        known = read_numbers("blocks", key)
        names = {block: json.dumps(asdict(block), sort_keys=True) for block in blocks}
        fresh = time_blocks(
            [block for block in blocks if names[block] not in known],
            threads=self._profile.threads,
            made=quantised_on if self._timed_as == "onnx-int8" else lambda feed, model: model,
            moved=moved,
        )
        known |= {names[block]: ratio for block, ratio in fresh.ratios.items()}
        if fresh.ratios:
            write_numbers("blocks", key, known)
        return BlockTimes({block: known[name] for block, name in names.items()}, fresh.reference_ms)

    def _shipped(self, plain: Path) -> Path:
        """The file that is timed: the plain one, or the one made from it in the format that ships."""
        if self._timed_as == "onnx":
            return plain
        path = self._derived(plain)
        if not path.exists():
            shape = (NOISE, *self._image.shape[1:])
            noise = np.random.default_rng(0).standard_normal(shape, np.float32)
            derived(self._timed_as, plain, path, Asked((noise,)))
        return path

    def _opened(self, plain: Path) -> Session:
        return open_session(self._shipped(plain), threads=self._profile.threads)

    def _call(self, session: Session) -> Callable[[], object]:
        feed = {session.inputs[0].name: self._images}
        return lambda: session.run(feed)

    def _clock(self, timing: Timing) -> tuple[float, ...]:
        """CPU time with one thread, because other programs disturb it least; else wall time, since CPU time would
        count waiting threads."""
        return timing.cpu_ms if self._profile.threads == 1 else timing.samples_ms


def machine() -> Mapping[str, Any]:
    """The facts that a block's time depends on: the processor and the runtime, not the rest of the system."""
    facts = fingerprint()
    packages = facts["packages"]
    assert isinstance(packages, dict)
    names = ("cpu", "architecture", "instruction_sets", "usable_cores")
    return {name: facts[name] for name in names} | {"onnxruntime": packages["onnxruntime"]}


def _beside(nodes: NodeTimes, whole_ms: float, lies: Between) -> Beside:
    """Time outside the products, from the profiled nodes of a run that takes ``whole_ms`` without the profiler.

    The fastest other node's time is taken as the runtime's overhead of every node, which does not depend on widths.
    """
    inside = [node.op in PRODUCTS or node.name in lies.in_blocks for node in nodes.nodes]
    pairs = [*zip(nodes.nodes, inside, strict=True)]
    products = sum(node.median_ms for node, own in pairs if own)
    others = [node.median_ms for node, own in pairs if not own]
    if not products:
        return Beside(0.0, 0.0, lies.before)
    own = len(others) * min(others, default=0.0)
    unseen = max(0.0, whole_ms - products - sum(others))
    return Beside((own + unseen) / products, (sum(others) - own) / products, lies.before)
