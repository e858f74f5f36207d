"""A cut network is fitted to its teacher: the right equations, the right rows, and outputs that come nearer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import compressor
from compressor.data.in_memory import TensorSplit, crop_and_flip
from compressor.data.scaling import Scaling
from compressor.data.split import Data
from compressor.errors import UsageError
from compressor.methods.start import images_of
from compressor.pruning.cutting import cut
from compressor.pruning.graph.recording.example import inputs_of
from compressor.pruning.graph.recording.record import record
from compressor.pruning.graph.trace import trace
from compressor.pruning.repairing import equations, frontier
from compressor.pruning.repairing.equations import Solution, Sums, equations_of
from compressor.pruning.repairing.fit_network import Repaired, repaired
from compressor.pruning.repairing.rows import Multiplication, Positions
from compressor.pruning.widths.plan import Plan, plan_keeping
from tests.compressor.networks import Residual, cut_at_random, networks, with_statistics

from .pair import Pair, two_processes


def pictures(count: int, shape: tuple[int, ...] = (3, 8, 8), seed: int = 0) -> Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))


def repair(student: nn.Module, teacher: nn.Module, plan: Plan, images: Tensor, batch: int = 16) -> Repaired:
    batches = ((start, inputs_of(images[start : start + batch])) for start in range(0, len(images), batch))
    return repaired(student, teacher, plan, batches)


# ---------------------------------------------------------------------- rows and equations


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv2d(4, 6, 3, stride=2, padding=1), (4, 9, 7)),
        (nn.Conv2d(4, 6, (3, 2), dilation=(2, 1), padding=(0, 1), bias=False), (4, 9, 7)),
        (nn.Conv2d(4, 6, 3, groups=2), (4, 9, 7)),
        (nn.Conv2d(4, 8, 3, groups=4, padding=2), (4, 9, 7)),
        (nn.Conv1d(4, 6, 5, stride=3), (4, 20)),
        (nn.Conv3d(4, 6, 2), (4, 3, 5, 4)),
        (nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1), (4, 5, 6)),
        (nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2, dilation=2), (4, 5, 6)),
        (nn.ConvTranspose1d(4, 6, 2, stride=3), (4, 7)),
        (nn.Linear(4, 6), (4,)),
        (nn.Linear(4, 6), (5, 4)),
    ],
)
def test_rows_times_the_matrix_are_what_the_layer_gives(layer: nn.Module, shape: tuple[int, ...]) -> None:
    layer = layer.double()
    x = pictures(3, shape).double()
    operation = next(
        each for each in record(layer, inputs_of(x)).operations if each.operator in ("convolution", "linear")
    )
    multiplication = Multiplication(operation, operation.args, layer.weight)
    seen = Positions(0, torch.arange(3), 10**6)
    matrix = multiplication.matrix(layer.weight.detach())
    found = multiplication.read(x, seen) @ matrix.transpose(1, 2)
    if isinstance(layer, nn.Linear):
        plain = F.linear(x, layer.weight)
    else:
        plain = layer(x) if layer.bias is None else layer(x) - layer.bias.view(-1, *(1 for _ in shape[1:]))
    torch.testing.assert_close(found, multiplication.given(plain.detach(), seen), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(multiplication.weight(matrix), layer.weight.detach(), rtol=0, atol=0)


def test_few_positions_are_the_same_in_what_is_read_and_given_and_do_not_depend_on_batches() -> None:
    x = pictures(6, (2, 30, 30))
    whole = Positions(3, torch.arange(6), 50).of(x, 2)
    parts = [Positions(3, torch.arange(6)[part], 50).of(x[part], 2) for part in (slice(0, 4), slice(4, 6))]
    assert whole.shape == (300, 2)
    assert torch.equal(whole, torch.cat(parts))
    marked = torch.stack([x[:, 0], x[:, 0] * 2], dim=1)
    rows = Positions(3, torch.arange(6), 50).of(marked, 2)
    assert torch.equal(rows[:, 1], rows[:, 0] * 2)


def system(rows: int = 60, blocks: int = 2) -> tuple[Tensor, Tensor, Solution]:
    random = torch.Generator().manual_seed(1)
    x, y, w, b = (
        torch.randn(blocks, *shape, generator=random, dtype=torch.float64)
        for shape in ((rows, 5), (rows, 3), (3, 5), (3,))
    )
    return x + 1, y, Solution(w, b)


@pytest.mark.parametrize("shifts", [True, False])
def test_the_solution_is_the_least_squares_solution_of_the_rows_and_the_ridge(shifts: bool) -> None:
    x, y, old = system()
    sums = Sums.empty(2, 5, 3, torch.device("cpu"))
    for part in (slice(0, 13), slice(13, 60)):
        sums.add(x[:, part], y[:, part])
    found = equations.Equations(sums, old, shifts, 0.3)
    solution = found.solved()
    for block in range(2):
        # By an oracle of its own: the ridge as further rows, the constant as a further column without ridge.
        centred = x[block] - x[block].mean(0) if shifts else x[block]
        targets = y[block] - y[block].mean(0) if shifts else y[block]
        ridge = found.ridge[block].sqrt() * torch.eye(5, dtype=torch.float64)
        rows = torch.cat([centred, ridge])
        wanted = torch.cat([targets, ridge @ old.matrix[block].T])
        expected = torch.linalg.lstsq(rows, wanted).solution.T
        torch.testing.assert_close(solution.matrix[block], expected, rtol=1e-9, atol=1e-9)
    error = (solution(x) - y).square().sum() / ((y - y.mean(1, keepdim=True) if shifts else y).square().sum())
    assert found.error(solution) == pytest.approx(float(error), rel=1e-9)


def test_wide_layers_are_solved_by_steps_to_the_same_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = with_statistics(
        nn.Sequential(nn.Conv2d(3, 12, 3), nn.ReLU(), nn.Conv2d(12, 6, 3), nn.Flatten(), nn.Linear(96, 4))
    )
    plan = plan_keeping(trace(teacher, pictures(1)), {"0": (0, 2, 4, 5, 7)})
    student, images = cut(teacher, plan), pictures(600)
    monkeypatch.setattr(equations, "PLENTY", 0)  # the same ridge in both
    directly = repair(student, teacher, plan, images)
    monkeypatch.setattr(equations, "WIDEST", 8)
    by_steps = repair(student, teacher, plan, images)
    assert by_steps.after < 0.9 * by_steps.before
    for one, other in zip(directly.network.parameters(), by_steps.network.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-3)  # float32 products, forty steps
    assert directly.after == pytest.approx(by_steps.after, rel=1e-2)


def test_the_ridge_is_larger_where_rows_are_few() -> None:
    x, y, old = system(rows=400, blocks=1)
    y = x @ old.matrix.transpose(1, 2) + 2 * y  # twice as much noise as there is to be told
    old = Solution(torch.zeros_like(old.matrix), old.shift)
    ridges = []
    for rows in (12, 400):
        folds = [Sums.empty(1, 5, 3, torch.device("cpu")) for _ in range(2)]
        folds[0].add(x[:, : rows * 3 // 4], y[:, : rows * 3 // 4])
        folds[1].add(x[:, rows * 3 // 4 : rows], y[:, rows * 3 // 4 : rows])
        found = equations_of(folds, old, True)
        ridges.append(float(found.ridge / found._gram.diagonal(dim1=1, dim2=2).mean()))  # type: ignore[union-attr]
    assert ridges[0] > ridges[1]


# ---------------------------------------------------------------------- networks

RESIDUAL = partial(Residual, 8, 8, norm=True, act=nn.ReLU)


def doubled(reader: nn.Module, dims: int = 2, groups: int = 1) -> nn.Sequential:
    """Twelve channels of which the second six repeat the first: without them nothing is lost that cannot be fitted."""
    first = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1](3, 12, 3, padding=1)
    first.weight.data[6:], first.bias.data[6:] = first.weight.data[:6], first.bias.data[:6]  # type: ignore[union-attr]
    return nn.Sequential(first, nn.ReLU(), reader).eval()


READERS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "3 x 3": (lambda: nn.Conv2d(12, 5, 3, padding=1), 2),
    "stride and dilation": (lambda: nn.Conv2d(12, 5, 3, stride=2, dilation=2), 2),
    "without a constant": (lambda: nn.Conv2d(12, 5, 1, bias=False), 2),
    "a norm behind": (
        lambda: nn.Sequential(nn.Conv2d(12, 5, 1, bias=False), nn.BatchNorm2d(5), nn.ReLU()),
        2,
    ),
    "transposed": (lambda: nn.ConvTranspose2d(12, 5, 3, stride=2), 2),
    "one dimension": (lambda: nn.Conv1d(12, 5, 3), 1),
    "three dimensions": (lambda: nn.Conv3d(12, 5, 2), 3),
    "linear": (lambda: nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(48, 5)), 2),
}


@pytest.mark.parametrize("name", READERS)
def test_what_removed_channels_said_is_said_by_those_that_repeat_them(name: str) -> None:
    torch.manual_seed(0)
    reader, dims = READERS[name]
    teacher = with_statistics(doubled(reader(), dims))
    images = pictures(256, (3, *(8 for _ in range(dims))))
    plan = plan_keeping(trace(teacher, images[:1]), {"0": tuple(range(6))})
    result = repair(cut(teacher, plan), teacher, plan, images)
    assert result.check.passed
    assert result.before > 1e-2
    assert result.after < 1e-4 * result.before  # the ridge keeps a thousandth, and errors are squared


def test_a_drift_in_a_sum_is_made_good_by_the_next_layer() -> None:
    torch.manual_seed(0)
    teacher = with_statistics(nn.Sequential(nn.Conv2d(3, 8, 3), RESIDUAL(), RESIDUAL()))
    images = pictures(256)
    _, student, plan, _ = cut_at_random(teacher, images[:4])
    result = repair(student, teacher, plan, images)
    assert result.after < 0.5 * result.before
    assert not result.left


def test_the_numbers_do_not_depend_on_how_images_are_put_into_batches() -> None:
    torch.manual_seed(0)
    teacher = with_statistics(nn.Sequential(nn.Conv2d(3, 8, 3), RESIDUAL(), nn.Conv2d(8, 4, 1)))
    images = pictures(50)
    _, student, plan, _ = cut_at_random(teacher, images[:4])
    one, other = (repair(student, teacher, plan, images, batch) for batch in (50, 12))
    assert one.after == pytest.approx(other.after, rel=1e-3)
    for a, b in zip(one.network.state_dict().values(), other.network.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)  # other sums in float32


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with two_processes() as both:
        yield both


def pieces() -> dict[str, Tensor]:
    """The network repaired by this process's pieces of batches."""
    torch.manual_seed(0)
    teacher = with_statistics(nn.Sequential(nn.Conv2d(3, 8, 3), RESIDUAL(), nn.Conv2d(8, 4, 1)))
    _, student, plan, _ = cut_at_random(teacher, pictures(4))
    images, labels = (pictures(50) * 40 + 128).clamp(0, 255).byte(), torch.zeros(50, dtype=torch.int64)
    split = TensorSplit(images, labels, Scaling((0.5,) * 3, (0.2,) * 3), augment=crop_and_flip)
    data = Data("pieces", ("a", "b"), (3, 8, 8), split, split)
    return dict(repaired(student, teacher, plan, images_of(data, 45, 0)).network.state_dict())


def test_two_processes_share_the_sums_and_get_the_network_of_one(pair: Pair) -> None:
    one = pieces()
    first, second = pair(pieces)
    for name, tensor in one.items():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], tensor, rtol=1e-3, atol=1e-4)  # other sums in float32


def test_values_that_do_not_fit_into_memory_go_through_files(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    teacher = with_statistics(nn.Sequential(nn.Conv2d(3, 8, 3), RESIDUAL(), nn.Conv2d(8, 4, 1)))
    images = pictures(40)
    _, student, plan, _ = cut_at_random(teacher, images[:4])
    held = repair(student, teacher, plan, images)
    monkeypatch.setattr(frontier, "LIMIT", 0)
    written = repair(student, teacher, plan, images)
    for one, other in zip(
        held.network.state_dict().values(), written.network.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(network=networks(), seed=st.integers(0, 99))
def test_generated_networks_come_nearer_to_their_teacher_or_stay_as_they_were(
    network: nn.Module, seed: int
) -> None:
    images = pictures(64)
    _, student, plan, _ = cut_at_random(network, images[:4], seed)
    result = repair(student, network, plan, images)
    assert result.check.passed  # what was fitted is what the network computes
    if result.helped:
        assert result.after < result.before
    else:
        with torch.no_grad():
            torch.testing.assert_close(result.network(images[:2]), student(images[:2]), rtol=0, atol=0)


def test_norms_have_the_statistics_of_what_they_read_and_compute_what_they_did() -> None:
    torch.manual_seed(0)
    teacher = with_statistics(nn.Sequential(nn.Conv2d(3, 8, 3), RESIDUAL(), nn.Conv2d(8, 4, 1)))
    images = pictures(128)
    _, student, plan, _ = cut_at_random(teacher, images[:4])
    network = repair(student, teacher, plan, images).network
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    read: list[Tensor] = []
    for norm in norms:
        norm.register_forward_pre_hook(lambda module, args: read.append(args[0]))
    with torch.no_grad():
        network(images)
    for norm, x in zip(norms, read, strict=True):
        torch.testing.assert_close(norm.running_mean, x.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(
            norm.running_var, x.transpose(0, 1).flatten(1).var(1), rtol=1e-4, atol=1e-5
        )


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.twice, self.rnn = nn.Linear(4, 6), nn.Linear(6, 6), nn.LSTM(6, 4, batch_first=True)
        self.last = nn.utils.parametrizations.weight_norm(nn.Linear(4, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.rnn(self.twice(self.twice(self.first(x))))[0])


def test_layers_that_cannot_be_fitted_are_listed_with_the_reason() -> None:
    torch.manual_seed(0)
    teacher, images = Shared().eval(), pictures(32, (5, 4))
    _, student, plan, _ = cut_at_random(teacher, images[:4])
    left = {each.layer: each.reason for each in repair(student, teacher, plan, images).left}
    assert left["twice.weight"] == "its weight is used 2 times"
    assert left["rnn.weight_ih_l0"] == "a recurrent layer"
    assert left["last.weight"] == "its weight is computed from others"


# ---------------------------------------------------------------------- what is refused


@pytest.fixture
def trio() -> tuple[nn.Module, nn.Module, Plan]:
    torch.manual_seed(0)
    teacher = with_statistics(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)))
    _, student, plan, _ = cut_at_random(teacher, pictures(4))
    return student, teacher, plan


def test_the_verb_leaves_what_it_is_given_and_takes_a_tensor_or_batches(
    trio: tuple[nn.Module, nn.Module, Plan],
) -> None:
    student, teacher, plan = trio
    images = pictures(70)
    before = [tensor.clone() for tensor in (*student.parameters(), *teacher.parameters())]
    one = compressor.repair(student, teacher, plan, images)
    other = compressor.repair(student, teacher, plan, list(images.split(32)))
    assert all(map(torch.equal, before, (*student.parameters(), *teacher.parameters())))
    assert all(map(torch.equal, one.parameters(), other.parameters()))
    with torch.no_grad():
        assert (one(images) - teacher(images)).square().mean() < (
            student(images) - teacher(images)
        ).square().mean()


def test_what_cannot_be_repaired_is_refused_in_one_line(trio: tuple[nn.Module, nn.Module, Plan]) -> None:
    student, teacher, plan = trio
    bad = pictures(40)
    bad[37, 0, 2, 2] = torch.nan
    for network, images, message in (
        (teacher, pictures(0), "there are none"),
        (teacher, bad, "image 37 has values that are not finite"),
        (teacher, pictures(8, (3, 9, 9)), r"shape \(3, 9, 9\): the plan was made with \(3, 8, 8\)"),
        (nn.Sequential(nn.ReLU()), pictures(8), "which the teacher does not have"),
    ):
        with pytest.raises(UsageError, match=message):
            compressor.repair(student, network, plan, images)
    smaller = cut(teacher, plan_keeping(trace(teacher, pictures(1)), {"0": (0,)}))
    with pytest.raises(UsageError, match="the plan leaves"):
        compressor.repair(smaller, teacher, plan, pictures(8))
    with pytest.raises(UsageError, match="made in several steps"):
        compressor.repair(student, teacher, replace(plan, earlier=plan), pictures(8))
