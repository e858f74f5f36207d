"""Scores of a whole graph; and that scoring leaves no trace in the caller's network."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.numpy import load
from torch import Tensor, nn

from compressor.data.split import Batch
from compressor.errors import CompressError, UsageError
from compressor.pruning.graph.trace import trace
from compressor.pruning.scoring.criteria import CRITERIA
from compressor.pruning.scoring.score import score
from compressor.pruning.scoring.scores import Scores
from compressor.recipe.saliency import Scoring
from tests.compressor.networks import images, with_statistics


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.5), nn.Conv2d(6, 4, 3)]
    return with_statistics(nn.Sequential(*layers, nn.ReLU(), nn.Flatten(), nn.Linear(64, 5)))


def batches(count: int = 2) -> list[Batch]:
    return [Batch(images(4, seed=seed), torch.arange(4), torch.arange(4)) for seed in range(count)]


def by_criterion(teacher: nn.Module, criterion: str, pixels: Tensor, **asked: str) -> list[float]:
    """The scores of the first group by one batch, in which image number i has the label i."""
    labels = torch.arange(len(pixels))
    graph = trace(teacher, pixels[:1])
    scores = score(teacher, graph, Scoring(criterion, **asked), [Batch(pixels, labels, labels)])
    return scores.of(graph.groups[0].name).tolist()


def scored(teacher: nn.Module, criterion: str, count: int = 2) -> Scores:
    return score(teacher, trace(teacher, images(1)), criterion, batches(count))


def test_l1_sums_the_weights_a_channel_is_made_of_and_read_by() -> None:
    teacher = network()
    found = scored(teacher, "l1").of("0")
    expected = teacher[0].weight.abs().sum((1, 2, 3)) + teacher[4].weight.abs().sum((0, 2, 3))
    expected = expected + teacher[1].weight.abs()
    np.testing.assert_allclose(found, (expected / expected.mean()).detach().numpy(), rtol=1e-6)


def test_l2_follows_a_channel_through_a_flatten() -> None:
    teacher = network()
    found = scored(teacher, "l2").of("4")
    columns = teacher[7].weight.square().sum(0).view(4, 16).sum(1)
    expected = teacher[4].weight.square().sum((1, 2, 3)) + columns
    np.testing.assert_allclose(found, (expected / expected.mean()).detach().numpy(), rtol=1e-6)


def test_the_scale_of_the_norm_decides_where_there_is_one_and_units_are_alike_elsewhere() -> None:
    teacher = network()
    scores = scored(teacher, "bn-scale")
    expected = teacher[1].weight.abs()
    np.testing.assert_allclose(scores.of("0"), (expected / expected.mean()).detach().numpy(), rtol=1e-6)
    assert scores.of("4").tolist() == [1.0] * 4
    assert scores.unscored == ("4",)


def test_data_driven_scores_are_the_mean_over_batches() -> None:
    teacher = network()
    graph = trace(teacher, images(1))
    plain = Scoring("taylor", normalise="none")
    both = score(teacher, graph, plain, batches(2)).of("0")
    each = [score(teacher, graph, plain, [batch]).of("0") for batch in batches(2)]
    np.testing.assert_allclose(both, (each[0] + each[1]) / 2, rtol=1e-6)
    assert not np.allclose(each[0], each[1], rtol=1e-2)


def test_a_channel_that_nobody_hears_scores_nothing() -> None:
    teacher = network()
    with torch.no_grad():
        teacher[0].weight[2].zero_()
        teacher[0].bias[2] = 0
        teacher[1].weight[2] = 0
        teacher[1].bias[2] = 0
        teacher[4].weight[:, 2] = 0
    for criterion in CRITERIA.keys() - {"random", "fpgm"}:  # an empty filter is as far from others as any
        found = scored(teacher, criterion).of("0")
        assert found[2] == 0
        assert (np.delete(found, 2) != 0).all()


@pytest.mark.parametrize("criterion", CRITERIA)
def test_the_callers_network_is_as_before(criterion: str) -> None:
    teacher = network()
    teacher[1].train()
    teacher[0].requires_grad_(False)
    teacher[4].weight.grad = torch.full_like(teacher[4].weight, 3.0)
    handle = teacher[2].register_forward_hook(lambda module, args, output: None)
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    flags = [module.training for module in teacher.modules()]
    scored(teacher, criterion)
    assert all(torch.equal(before[name], tensor) for name, tensor in teacher.state_dict().items())
    assert [module.training for module in teacher.modules()] == flags
    assert [name for name, each in teacher.named_parameters() if not each.requires_grad] == [
        "0.weight",
        "0.bias",
    ]
    assert [name for name, each in teacher.named_parameters() if each.grad is not None] == ["4.weight"]
    assert torch.equal(teacher[4].weight.grad, torch.full_like(teacher[4].weight, 3.0))
    assert list(teacher[2]._forward_hooks) == [handle.id]


@pytest.mark.parametrize("criterion", CRITERIA)
def test_the_global_random_state_neither_matters_nor_moves(criterion: str) -> None:
    teacher = network()
    torch.manual_seed(1)
    one = scored(teacher, criterion)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    other = scored(teacher, criterion)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(np.array_equal(one.of(name), other.of(name)) for name in one.by_group)


def test_left_over_gradients_of_the_caller_do_not_count() -> None:
    clean, used = network(), network()
    for parameter in used.parameters():
        parameter.grad = torch.full_like(parameter, 100.0)
    assert np.array_equal(scored(clean, "taylor").of("0"), scored(used, "taylor").of("0"))


def test_frozen_weights_are_scored_like_all_others() -> None:
    free, frozen = network(), network().requires_grad_(False)
    assert np.array_equal(scored(free, "taylor").of("0"), scored(frozen, "taylor").of("0"))


def test_criteria_of_weights_read_no_data() -> None:
    teacher = network()
    graph = trace(teacher, images(1))

    def never() -> object:
        raise AssertionError("the data was read")
        yield

    assert score(teacher, graph, "l1", never()).of("0").shape == (6,)  # type: ignore[arg-type]


def test_a_data_driven_criterion_without_data_is_refused() -> None:
    with pytest.raises(UsageError, match="needs batches, and there are none"):
        scored(network(), "taylor", count=0)


def test_gradients_that_are_not_finite_are_refused() -> None:
    teacher = network()
    with torch.no_grad():
        teacher[7].weight[0, 0] = float("nan")
    with pytest.raises(CompressError, match=r"the loss is nan in batch 1"):
        scored(teacher, "taylor")


def test_an_unknown_criterion_suggests_the_nearest() -> None:
    with pytest.raises(UsageError, match="unknown criterion `tailor`") as caught:
        scored(network(), "tailor")
    assert caught.value.hint == "did you mean `taylor`?"


def test_scores_say_who_computed_them_and_survive_a_file() -> None:
    scores = scored(network(), "l1")
    assert (scores.criterion, scores.combine, scores.normalise) == ("l1", "sum", "mean")
    assert (scores.backend, scores.fallback) == ("torch on cpu", None)
    stored = load(scores.to_bytes())
    assert stored.keys() == scores.by_group.keys()
    assert all(np.array_equal(stored[name], scores.of(name)) for name in stored)


def test_weights_that_are_no_numbers_are_refused() -> None:
    teacher = network()
    with torch.no_grad():
        teacher[0].weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(CompressError, match=r"the scores of `0.weight` by `l1` are not finite"):
        scored(teacher, "l1")


def test_a_criterion_that_sees_nothing_is_refused() -> None:
    teacher = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    graph = trace(teacher, images(1))
    with pytest.raises(UsageError, match="`bn-scale` can score no group"):
        score(teacher, graph, "bn-scale")
