"""A program is its network: in evaluation and in training, at any batch size, copied, saved and exported."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
import torchvision.ops
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from compressor.errors import CompressError
from compressor.exporting.onnx import to_onnx
from compressor.pruning.cutting import cut, form_of
from compressor.pruning.cutting.program import Program
from compressor.pruning.cutting.program_write import program_of
from compressor.pruning.cutting.proof import check_cut
from compressor.pruning.graph.recording.example import inputs_of
from compressor.pruning.graph.trace import trace
from compressor.pruning.widths.plan import Plan, plan_keeping
from compressor.training import reestimate
from compressor.training.layer_outputs import EMBEDDING, Places
from tests.compressor.networks import (
    MLP,
    Attention,
    ChannelsLast,
    FlattenHead,
    Function,
    GatedMLP,
    OnTokens,
    PooledHead,
    Res2,
    Residual,
    Shuffled,
    convolution,
    images,
    networks,
    random_units,
    with_statistics,
)
from tests.compressor.test_training_loop import Pixels


class Regular(nn.Module):
    """What is switched by training: dropout, dropout of channels, stochastic depth, batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8, momentum=0.3), nn.Dropout2d(0.4)
        )
        self.depth = torchvision.ops.StochasticDepth(0.5, "row")

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.depth(self.body(x)))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "convolutions": lambda: nn.Sequential(
        convolution(3, 8, True), Residual(8, 8, True, nn.SiLU), FlattenHead(8, 2, 6, True)
    ),
    "dropout and stochastic depth": lambda: nn.Sequential(
        nn.Conv2d(3, 8, 3), Regular(), Regular(), nn.Dropout(0.3), PooledHead(8), nn.AlphaDropout(0.2)
    ),
    "stochastic depth of whole batches": lambda: nn.Sequential(
        nn.Conv2d(3, 8, 3), torchvision.ops.StochasticDepth(0.5, "batch"), PooledHead(8)
    ),
    "a batch norm without statistics": lambda: nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, track_running_stats=False), PooledHead(8)
    ),
    "a batch norm of the mean of all batches": lambda: nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, momentum=None), PooledHead(8)
    ),
    "an instance norm with statistics": lambda: nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.InstanceNorm2d(8, affine=True, track_running_stats=True), PooledHead(8)
    ),
    "attention": lambda: nn.Sequential(
        nn.Conv2d(3, 8, 2, 2), OnTokens(Attention(8, 2, 4, 16, "fused")), PooledHead(8)
    ),
    "attention with dropout": lambda: nn.Sequential(
        nn.Conv2d(3, 8, 2, 2),
        OnTokens(SelfAttention(nn.MultiheadAttention(8, 2, 0.5, batch_first=True))),
        PooledHead(8),
    ),
    "functional dropout": lambda: Function(
        lambda self, x: self.head(F.dropout(self.stem(x), 0.5, self.training)),
        stem=nn.Conv2d(3, 8, 1),
        head=nn.Conv2d(8, 5, 1),
    ),
    "a recurrent layer with dropout": lambda: nn.Sequential(
        nn.Conv2d(3, 8, 2, 2), OnTokens(nn.LSTM(8, 6, 2, batch_first=True, dropout=0.5)), PooledHead(6)
    ),
    "layer norms and layer scale": lambda: nn.Sequential(
        nn.Conv2d(3, 8, 2, 2), ChannelsLast(MLP(8, 12, nn.LayerNorm)), PooledHead(8)
    ),
    "weight norm": lambda: nn.Sequential(
        nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 8, 1)), nn.PReLU(), PooledHead(8)
    ),
}


class SelfAttention(nn.Module):
    def __init__(self, look: nn.MultiheadAttention) -> None:
        super().__init__()
        self.look = look

    def forward(self, x: Tensor) -> Tensor:
        return x + self.look(x, x, x, need_weights=False)[0]


def whole(network: nn.Module) -> Program:
    """The network written as a program, with nothing removed."""
    return program_of(network, Plan({}), inputs_of(images(1).to(next(network.parameters()).dtype)))


def made(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return with_statistics(make()).double()


def trained(network: nn.Module, steps: int = 3) -> nn.Module:
    """A few steps of SGD with momentum; the same random numbers each time."""
    network = network.train()
    optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.9, weight_decay=1e-3)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        for step in range(steps):
            optimizer.zero_grad()
            network(images(6, seed=step).double()).square().mean().backward()
            optimizer.step()
    return network


@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
def test_a_program_computes_and_trains_as_its_network_does(make: Callable[[], nn.Module]) -> None:
    network = made(make)
    program = whole(network)
    x = images(4, seed=7).double()
    # float64 and the same kernels in the same order; only layouts may differ, which costs a rounding or two.
    torch.testing.assert_close(program(x), network(x), rtol=1e-12, atol=1e-12)
    trained(network)
    trained(program)
    own = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    for name, tensor in program.state_dict().items():
        if name in own:
            torch.testing.assert_close(tensor, own[name].detach(), rtol=1e-12, atol=1e-12, msg=name)
    torch.testing.assert_close(program.eval()(x), network.eval()(x), rtol=1e-12, atol=1e-12)


@settings(max_examples=15, deadline=None)
@given(networks(), st.integers(0, 2**16))
def test_a_student_of_its_own_class_and_the_program_of_the_same_plan_are_one(
    network: nn.Module, seed: int
) -> None:
    network = network.double()
    graph = trace(network, images(1).double())
    plan = plan_keeping(graph, random_units(graph, seed))
    program = program_of(network, plan, inputs_of(images(1).double()))
    student = cut(network, plan)
    x = images(3).double()
    # float64, the same operators: as above.
    torch.testing.assert_close(program(x), student(x), rtol=1e-11, atol=1e-11)
    gradients = []
    for each in (program, student):
        each.train()(x).sum().backward()
        gradients.append({n: p.grad for n, p in each.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    scale = max(float(gradient.abs().max()) for gradient in gradients[1].values())
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-9, atol=1e-9 * scale)


def given_out(network: nn.Module, x: Tensor) -> dict[str, list[Tensor]]:
    """What hooks see of every layer, call by call."""
    seen: dict[str, list[Tensor]] = {}
    for path, module in network.named_modules():
        if path:
            note = lambda module, given, result, path=path: seen.setdefault(path, []).append(result)  # noqa: E731
            module.register_forward_hook(note)
    network(x)
    return {path: found for path, found in seen.items() if all(isinstance(one, Tensor) for one in found)}


@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
def test_hooks_see_in_a_program_what_they_see_in_its_network(make: Callable[[], nn.Module]) -> None:
    network = made(make).eval()
    x = images(4, seed=7).double()
    seen = given_out(copy.deepcopy(network), x)
    # Attention and recurrent layers are one operator each: what lies inside them is not seen.
    for program in (whole(network), copy.deepcopy(whole(network)), whole(whole(network))):
        found = given_out(program.eval(), x)
        assert found.keys() <= seen.keys()
        assert found.keys() >= {name.rpartition(".")[0] for name in network.state_dict()} & seen.keys()
        for path, results in found.items():
            torch.testing.assert_close(results, seen[path], rtol=1e-12, atol=1e-12, msg=path)


def test_a_hook_may_change_what_a_layer_of_a_program_gives_out() -> None:
    network = made(NETWORKS["convolutions"]).eval()
    program = whole(network).eval()
    x = images(2).double()
    for each in (network, program):
        each.get_submodule("1").register_forward_hook(lambda module, given, result: result * 2)
    torch.testing.assert_close(program(x), network(x), rtol=1e-12, atol=1e-12)


def test_stages_and_the_embedding_of_a_program_are_those_of_its_network() -> None:
    network = made(NETWORKS["convolutions"]).eval()
    x = images(1).double()
    mine, theirs = Places(whole(network), x, "student"), Places(network, x, "teacher")
    assert mine.stages == theirs.stages != []
    assert mine.classifier == theirs.classifier
    assert mine.shapes[EMBEDDING] == theirs.shapes[EMBEDDING]


# --- Networks whose own class could not be kept.

STUDENTS: dict[str, Callable[[], nn.Module]] = {
    "parts": lambda: nn.Sequential(convolution(3, 12, True), Res2(12, 3), PooledHead(12)),
    "a shuffle": lambda: nn.Sequential(convolution(3, 8, True), Shuffled(8, 2, True), PooledHead(8)),
    "a gate": lambda: nn.Sequential(
        nn.Conv2d(3, 6, 2, 2), OnTokens(GatedMLP(6, 5, True)), nn.Dropout(0.5), PooledHead(6)
    ),
    "relative positions": lambda: nn.Sequential(
        nn.Conv2d(3, 6, 2, 2), OnTokens(Attention(6, 2, 4, 16, "relative")), PooledHead(6)
    ),
    "heads of torch": lambda: nn.Sequential(
        nn.Conv2d(3, 6, 2, 2), OnTokens(Attention(6, 2, 4, 16, "torch")), PooledHead(6)
    ),
    "a number of the batch": lambda: Function(
        lambda self, x: self.head(self.stem(x).view(x.shape[0] * 8, -1).mean(1).view(x.shape[0], 8)) / len(x),
        stem=nn.Conv2d(3, 8, 1),
        head=nn.Linear(8, 5),
    ),
}


def student_of(make: Callable[[], nn.Module]) -> tuple[nn.Module, Program, Plan]:
    torch.manual_seed(0)
    network = with_statistics(make())
    graph = trace(network, images(1))
    for seed in range(20):  # by lot, until no part of the network's own Python fits by chance
        plan = plan_keeping(graph, random_units(graph, seed, share=0.6))
        student = cut(network, plan)
        if isinstance(student, Program):
            return network, student, plan
    raise AssertionError("its own class is kept whatever is cut")


every_student = pytest.mark.parametrize("make", STUDENTS.values(), ids=STUDENTS)


@every_student
def test_any_batch_size_runs_and_samples_do_not_see_each_other(make: Callable[[], nn.Module]) -> None:
    _, student, _ = student_of(make)
    student.double()
    x = images(7).double()
    share = 7 if make is STUDENTS["a number of the batch"] else 1  # its answer is divided by the batch
    alone = torch.cat([student(each[None]) for each in x])
    # float64: the sums of a larger product may run in another order.
    torch.testing.assert_close(student(x) * share, alone, rtol=1e-12, atol=1e-12)


@every_student
def test_gradients_reach_every_parameter_and_repeat(make: Callable[[], nn.Module]) -> None:
    _, student, _ = student_of(make)
    student.train()(images(4)).square().sum().backward()
    heard = {name for name, p in student.named_parameters() if p.grad is not None and p.grad.any()}
    # A bias of all keys alike moves no softmax: its gradient is zero but for rounding.
    assert heard >= {name for name, _ in student.named_parameters() if "in_proj_bias" not in name}


@every_student
def test_training_and_evaluation_are_told_apart(make: Callable[[], nn.Module]) -> None:
    network, student, _ = student_of(make)
    switched = [m for m in network.modules() if isinstance(m, nn.Dropout | nn.BatchNorm2d)]
    x = images(4)
    evaluated = student.eval()(x)
    assert torch.equal(student(x), evaluated)
    assert (not torch.equal(student.train()(x), evaluated)) == bool(switched)
    norms = [name for name in student.state_dict() if name.endswith("running_mean")]
    before = {name: student.state_dict()[name].clone() for name in norms}
    student.eval()(x)
    assert all(torch.equal(before[name], student.state_dict()[name]) for name in norms)
    student.train()(x)
    assert not any(torch.equal(before[name], student.state_dict()[name]) for name in norms)


@every_student
def test_a_copy_is_equal_and_separate(make: Callable[[], nn.Module]) -> None:
    _, student, _ = student_of(make)
    student.train()
    student(images(2)).sum().backward()
    copied = copy.deepcopy(student)
    assert copied.training
    assert not {p.data_ptr() for p in copied.parameters()} & {p.data_ptr() for p in student.parameters()}
    for one, other in zip(student.parameters(), copied.parameters(), strict=True):
        assert other.grad is not None
        assert torch.equal(one.grad, other.grad)
        assert one.grad is not other.grad
    x = images(2)
    assert torch.equal(copied.eval()(x), student.eval()(x))
    with torch.no_grad():
        next(copied.parameters()).zero_()
    assert not torch.equal(copied(x), student(x))


@every_student
def test_a_description_survives_json_and_a_state_survives_saving(
    make: Callable[[], nn.Module], tmp_path: Path
) -> None:
    _, student, _ = student_of(make)
    torch.save(student.state_dict(), tmp_path / "state.pt")
    description = json.loads(json.dumps(student.description))
    empty = {
        name: nn.Parameter(torch.zeros_like(tensor))
        if isinstance(tensor, nn.Parameter)
        else tensor.clone() * 0
        for name, tensor in ((name, student.tensor(name)) for name in student._places)
    }
    again = Program(description, empty)
    assert again.load_state_dict(torch.load(tmp_path / "state.pt"), strict=True)
    assert torch.equal(again.eval()(images()), student.eval()(images()))


@every_student
def test_weights_lie_under_their_old_names(make: Callable[[], nn.Module]) -> None:
    network, student, plan = student_of(make)
    full = dict(network.named_parameters())
    for name, parameter in student.named_parameters():
        shape = list(full[name].shape)
        for axis, kept in plan.slices.get(name, {}).items():
            shape[axis] = len(kept)
        assert list(parameter.shape) == shape
        assert parameter.requires_grad == full[name].requires_grad


@every_student
def test_an_exported_program_answers_as_the_program(make: Callable[[], nn.Module], tmp_path: Path) -> None:
    if make is STUDENTS["a number of the batch"]:
        pytest.skip("the exporter makes a constant of the number of samples that it is divided by")
    _, student, _ = student_of(make)
    to_onnx(student, images(2), tmp_path / "student.onnx")
    for batch in (1, 5):
        x = images(batch)
        with torch.no_grad():
            expected = student.eval()(x).numpy()
        found = run_onnx(tmp_path / "student.onnx", x.numpy())
        # float32, sums of a few hundred products in another order.
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def run_onnx(path: Path, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {"input": x})[0]


def test_a_program_is_compiled_by_nobody_and_runs_under_no_grad() -> None:
    _, student, _ = student_of(STUDENTS["parts"])
    with torch.inference_mode():
        assert not student(images(2)).requires_grad


def test_a_program_on_another_dtype_follows_its_weights() -> None:
    _, student, _ = student_of(STUDENTS["a gate"])
    assert student.eval().bfloat16()(images(2).bfloat16()).dtype == torch.bfloat16


def test_a_program_with_a_recurrent_layer_follows_its_weights_too() -> None:
    torch.manual_seed(0)
    program = whole(NETWORKS["a recurrent layer with dropout"]().eval())
    assert program.double()(images(2).double()).dtype == torch.float64


def test_a_size_that_grows_with_the_square_of_the_batch_runs_or_is_refused() -> None:
    """Every sample is compared with every other: the number of pairs is no multiple of the batch."""
    torch.manual_seed(0)

    def forward(self: Any, x: Tensor) -> Tensor:
        x = self.stem(x).mean((2, 3))
        pairs = (x[:, None] - x[None]).view(len(x) * len(x), 8)
        return self.head(pairs)

    network = Function(forward, stem=nn.Conv2d(3, 8, 1), head=nn.Linear(8, 5)).eval()
    graph = trace(network, images(2))
    student = cut(network, plan_keeping(graph, {group.name: (0, 2, 5) for group in graph.groups}))
    assert form_of(student) == "program"
    try:
        found = student(images(5))
    except CompressError as error:
        assert "batches of 2 only" in str(error)  # noqa: PT017
    else:
        assert found.shape == (25, 5)


def test_a_network_that_differs_by_batch_runs_the_batch_it_was_traced_with_and_says_so() -> None:
    torch.manual_seed(0)

    def forward(self: Any, x: Tensor) -> Tensor:
        x = self.stem(x).view(-1, 8, 8, 8)
        return self.head(x if len(x) < 3 else x.flip(0).sin())

    network = Function(forward, stem=nn.Conv2d(3, 8, 1), head=nn.Conv2d(8, 5, 1)).eval()
    graph = trace(network, images(2))
    student = cut(network, plan_keeping(graph, {group.name: (0, 2, 5) for group in graph.groups}))
    assert student(images(2)).shape == (2, 5, 8, 8)
    with pytest.raises(CompressError, match="this program runs batches of 2 only, found 3"):
        student(images(3))


def test_a_network_that_only_runs_one_batch_becomes_a_program_of_that_batch() -> None:
    torch.manual_seed(0)
    network = Function(
        lambda self, x: self.head(self.stem(x).view(2, 8, 64).sin().view(2, 8, 8, 8)),
        stem=nn.Conv2d(3, 8, 1),
        head=nn.Conv2d(8, 5, 1),
    ).eval()
    graph = trace(network, images(2))
    student = cut(network, plan_keeping(graph, {group.name: (0, 2, 5) for group in graph.groups}))
    assert student(images(2)).shape == (2, 5, 8, 8)
    with pytest.raises(CompressError, match="this program runs batches of 2 only, found 3"):
        student(images(3))


def test_a_program_takes_arguments_by_place_and_by_name() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(1, 8, 1), nn.Conv2d(8, 5, 1)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return self.head((self.one(x) + self.two(y)).view(-1, 8, 8, 8))

    torch.manual_seed(0)
    network, x, y = Two().eval(), images(2), images(2)[:, :1]
    graph = trace(network, {"x": x, "y": y})
    student = cut(network, plan_keeping(graph, {group.name: (0, 2, 5) for group in graph.groups}))
    assert form_of(student) == "program"
    assert torch.equal(student(x=x, y=y), student(y=y, x=x))
    with pytest.raises(CompressError, match="takes 2 arguments, found 1: `y` is missing"):
        student(x=x)
    with pytest.raises(CompressError, match="no argument `z`"):
        student(x=x, z=y)


def test_a_step_that_is_not_known_is_never_run() -> None:
    _, student, _ = student_of(STUDENTS["parts"])
    for operator in ("os.system", "aten.from_file.default", "aten._no_such.default", "builtins.eval"):
        description = json.loads(json.dumps(student.description))
        description["steps"][0][0] = operator
        with pytest.raises(CompressError, match="which is not one of those it may call"):
            Program(description, {name: student.tensor(name) for name in student._places})


def test_tied_weights_are_one_tensor_in_a_program_too() -> None:
    torch.manual_seed(0)
    network = Function(
        lambda self, x: self.head(self.two(torch.relu(self.one(x.flatten(1).view(-1, 192))))),
        one=nn.Linear(192, 8),
        two=nn.Linear(8, 8),
        head=nn.Linear(8, 5),
    )
    network.three = network.two
    network.two.bias = network.one.bias
    network = network.eval()
    student = whole(network)
    assert sum(1 for _ in student.parameters()) == sum(1 for _ in network.parameters())
    student(images(2)).sum().backward()
    network(images(2)).sum().backward()
    # float32; one product, twice in the same order.
    torch.testing.assert_close(student.get_parameter("one.bias").grad, network.one.bias.grad)


def test_a_program_measures_its_statistics_anew_as_its_network_does() -> None:
    network = with_statistics(
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5), nn.Conv2d(8, 4, 3))
    )
    pixels = images(24)
    split = Pixels(pixels, torch.zeros(24, dtype=torch.int64))
    expected = reestimate(network, split, batches=3, batch=8)
    program = program_of(network, Plan({}), inputs_of(images(1)))
    measured = reestimate(program, split, batches=3, batch=8)
    found, wanted = measured.state_dict(), expected.state_dict()
    for name in ("1.running_mean", "1.running_var"):
        torch.testing.assert_close(found[name], wanted[name], rtol=1e-5, atol=1e-6)
        assert not torch.allclose(found[name], network.state_dict()[name])
        assert torch.equal(program.state_dict()[name], network.state_dict()[name])
    torch.testing.assert_close(measured(pixels), expected(pixels), rtol=1e-5, atol=1e-6)
    assert torch.equal(measured(pixels), measured(pixels))


class Flagged(nn.Module):
    """A size in Python, and arguments that are no tensors."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 4, 1), nn.Conv2d(16, 2, 1)

    def forward(self, x: Tensor, scale: float = 1.0, head: str = "b") -> Tensor:
        y = torch.relu(self.a(x)).view(len(x), 16, 64).view(len(x), 16, 8, 8) * scale
        return self.b(y) if head == "b" else self.c(y)


def test_a_program_takes_only_the_values_and_sizes_that_it_was_traced_with() -> None:
    network, x = Flagged().eval(), images(2)
    graph = trace(network, {"x": x, "scale": 2.0, "head": "b"})
    student = cut(network, plan_keeping(graph, {"a": (0, 1, 5)}))
    assert form_of(student) == "program"
    assert torch.equal(student(x=x, scale=2.0, head="b"), student(x, 2.0, "b"))
    for call, message in (
        (lambda: student(x=x, scale=5.0, head="b"), r"`scale` of the program is 5.0, .* traced with 2.0"),
        (lambda: student(x=x, scale=2.0, head="c"), "`head` of the program is 'c'"),
        (lambda: student(x=x), "takes 3 arguments, found 1: `scale` is missing"),
        (
            lambda: student(torch.randn(2, 3, 16, 16), 2.0, "b"),
            r"shape \(2, 3, 16, 16\), expected \(2, 3, 8, 8\)",
        ),
        (lambda: student([x], 2.0, "b"), "is a list, expected a tensor"),
    ):
        with pytest.raises(CompressError, match=message):
            call()


def test_what_holds_for_one_sample_only_is_run_for_one_sample_only() -> None:
    network = Function(
        lambda self, x: self.b(
            (torch.relu if len(x) == 1 else torch.tanh)(self.a(x).view(len(x), 16, 64).view(len(x), 16, 8, 8))
        ),
        a=nn.Conv2d(3, 16, 3, padding=1),
        b=nn.Conv2d(16, 4, 1),
    ).eval()
    for batch in (1, 3):
        graph = trace(network, images(batch))
        plan = plan_keeping(graph, {"a": (0, 1, 5)})
        student = cut(network, plan)
        assert all(check.passed for check in check_cut(network, student, plan, images(batch)))
        with pytest.raises(CompressError, match=f"runs batches of {batch} only, found {4 - batch}"):
            student(images(4 - batch))


def test_a_slice_with_a_step_is_a_view_in_the_student_too() -> None:
    def keypoints(self: Any, x: Tensor) -> Tensor:
        y = self.a(x).relu().view(len(x), 16, 64).view(len(x), 16, 8, 8).clone()
        y[:, 2::3] = y[:, 2::3].sigmoid()
        y[:, ::2][:, 1:4].mul_(3)
        return self.b(y)  # type: ignore[no-any-return]

    network = Function(keypoints, a=nn.Conv2d(3, 16, 3, padding=1), b=nn.Conv2d(16, 6, 1)).eval()
    graph = trace(network, images(2))
    # Every channel, channels at regular places, and such as no slice can name.
    for kept in (range(16), range(0, 16, 2), (0, 1, 2, 5, 6, 8, 11, 12, 13), (2, 3, 8, 14)):
        plan = plan_keeping(graph, {group.name: kept for group in graph.groups})
        student = cut(network, plan)
        assert all(check.passed for check in check_cut(network, student, plan, images(2)))


def test_a_slice_that_is_read_after_its_source_was_written_is_refused_where_it_must_be_copied() -> None:
    def late(self: Any, x: Tensor) -> Tensor:
        y = self.a(x).relu().view(len(x), 16, 64).view(len(x), 16, 8, 8).clone()
        part = y[:, ::3]
        y.add_(1)
        return self.b(y).mean() + part.mean(1)  # type: ignore[no-any-return]

    network = Function(late, a=nn.Conv2d(3, 16, 3, padding=1), b=nn.Conv2d(16, 6, 1)).eval()
    graph = trace(network, images(2))
    with pytest.raises(CompressError, match="reads a slice whose source was written in place"):
        cut(network, plan_keeping(graph, {"a": (0, 3, 4, 6, 12)}))


@torch.library.custom_op("strangers::halved", mutates_args=())
def halved(x: Tensor) -> Tensor:
    """An operator of a library of one's own, which no program may call."""
    return x * 0.5


@halved.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


def test_an_operator_that_no_program_may_call_is_refused_with_a_way_out_that_works() -> None:
    def network(view: Callable[[Tensor], Tensor]) -> nn.Module:
        return Function(
            lambda self, x: halved(self.c(self.b(view(self.a(x))).relu())),
            a=nn.Conv2d(3, 16, 3, padding=1),
            b=nn.Conv2d(16, 8, 1),
            c=nn.Conv2d(8, 5, 1),
        ).eval()

    fixed = network(lambda x: x.view(len(x), 16, 64).view(len(x), 16, 8, 8))
    graph = trace(fixed, images(2))
    kept = {group.name: range(4) for group in graph.groups}
    with pytest.raises(CompressError, match="`halved` cannot be written into a program") as caught:
        cut(fixed, plan_keeping(graph, kept))
    assert "write that size from a tensor, as in `x.view(len(x), -1, 64)`" in str(caught.value.hint)
    free = network(lambda x: x.view(len(x), -1, 64).view(len(x), -1, 8, 8))
    plan = plan_keeping(trace(free, images(2)), kept)
    assert form_of(cut(free, plan)) == "module"
    assert all(check.passed for check in check_cut(free, cut(free, plan), plan, images(2)))
