"""Rounding while learning: as eight bits will, gradients come through, and nothing of it stays."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from compressor.exporting import Asked, derived, open_session, to_onnx
from compressor.exporting.int8 import WEIGHT_STEPS
from compressor.pruning.cutting.program_write import program_of
from compressor.pruning.graph.recording.example import inputs_of
from compressor.pruning.widths.plan import Plan
from compressor.training import train
from compressor.training.fake_int8 import can_round, rounding, without_rounding
from tests.compressor.test_comparisons import SCHEDULE, Staged, few
from tests.compressor.test_training_loop import state_of
from tests.export.networks import settled

IMAGES = torch.randn(32, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("steps", WEIGHT_STEPS.values())
def test_weights_have_so_many_values_by_channel_and_inputs_256(steps: int) -> None:
    network = settled(Staged()).eval()
    rounded = rounding(network, [IMAGES], steps)
    seen: list[torch.Tensor] = []
    head = rounded.get_submodule("head")
    head.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    rounded(IMAGES)
    for row in head.weight:  # type: ignore[union-attr]
        taken = row / row.abs().max() * steps
        # Single precision: a step is off by its rounding.
        torch.testing.assert_close(taken, taken.round(), rtol=0, atol=1e-3)
    assert len(seen[0].unique()) <= 256


@pytest.mark.parametrize("bits", WEIGHT_STEPS)
def test_it_answers_as_the_int8_file_will(bits: int, tmp_path: Path) -> None:
    network = settled(Staged()).eval()
    plain = to_onnx(network, IMAGES[:1], tmp_path / "n.onnx").path
    file = derived("onnx-int8", plain, tmp_path / "q.onnx", Asked((IMAGES.numpy(),), weight_bits=bits)).path
    with torch.no_grad():
        exact, simulated = (
            network(IMAGES).numpy(),
            rounding(network, [IMAGES], WEIGHT_STEPS[bits])(IMAGES).numpy(),
        )
    found = open_session(file, fused=False).answers(IMAGES.numpy())
    # The file also rounds what its last layers give out; the simulation is nearer to it than float32 is, or as near.
    scale = np.abs(exact).max()
    assert np.abs(simulated - found).max() < 0.05 * scale
    assert 0 < np.abs(simulated - exact).max() < 0.05 * scale


def test_gradients_reach_every_parameter() -> None:
    rounded = rounding(settled(Staged()), [IMAGES], 64).train()
    rounded(IMAGES).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in rounded.parameters())


def test_what_was_learnt_is_in_a_plain_network_and_the_given_one_is_not_changed() -> None:
    network = settled(Staged()).eval()
    before = copy.deepcopy(network.state_dict())
    learnt = train(rounding(network, [IMAGES], 64), few(), SCHEDULE, teacher=Staged(8, seed=1)).network
    plain = without_rounding(learnt, network)

    assert list(plain.state_dict()) == list(before)
    assert type(plain.get_submodule("head")) is nn.Linear
    assert not any(module._forward_pre_hooks for module in plain.modules())
    assert state_of(plain) != state_of(network)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    torch.testing.assert_close(
        plain.get_submodule("head").weight,
        dict(learnt.named_parameters())["head.parametrizations.weight.original"],
        rtol=0,
        atol=0,
    )


def test_weights_that_are_computed_already_are_left_alone() -> None:
    network = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3)), nn.Flatten())
    assert not can_round(network)
    torch.testing.assert_close(rounding(network, [IMAGES], 64)(IMAGES), network(IMAGES), rtol=0, atol=0)


def test_a_program_cannot_be_rounded() -> None:
    assert not can_round(program_of(Staged(), Plan({}), inputs_of(IMAGES[:1])))


def test_learning_for_eight_bits_gains_in_eight_bits() -> None:
    """Weights of one channel far apart lose most of their values to rounding; learning brings them back."""
    teacher = train(Staged(8), few(), SCHEDULE).network
    student = copy.deepcopy(teacher)
    with torch.no_grad():
        for name in ("stem.0", "deep.0"):
            student.get_submodule(name).weight[:, 0, 0, 0] = 60.0  # type: ignore[union-attr, index]
    calibration = [IMAGES]

    def loss(network: nn.Module) -> float:
        with torch.no_grad():
            return float((network.eval()(IMAGES) - teacher.eval()(IMAGES)).square().mean())

    before = loss(rounding(student, calibration, 64))
    learnt = train(rounding(student, calibration, 64), few(), SCHEDULE, teacher=teacher).network
    assert loss(learnt) < before
