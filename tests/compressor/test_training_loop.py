"""Training: that it learns, that it follows, that it repeats itself, and changes nothing given."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

from compressor.data.split import WHOLE, Bad, Batch, Data, batch_indices
from compressor.errors import CompressError
from compressor.training import Schedule, accuracy, train

CLASSES = ("a", "b", "c", "d")


@pytest.fixture(autouse=True)
def one_thread():
    """Layers this small gain nothing from a second thread, and wait for it four times as long."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@dataclass(frozen=True)
class Pixels:
    """A split in memory; `fixed` is only what it claims, its pixels never change."""

    images: torch.Tensor
    labels: torch.Tensor
    fixed: bool = True
    labelled: bool = True
    bad: tuple[Bad, ...] = ()
    plain = property(lambda self: self)

    def __len__(self):
        return len(self.labels)

    def batches(self, size, *, shuffle=None, start=0, part=WHOLE):
        for index in batch_indices(len(self), size, shuffle, start, part):
            yield Batch(self.images[index], self.labels[index], index)


def toy_data(*, fixed=True):
    """Four classes, each a pattern under noise of its own strength: separable, but not at a glance."""
    random = torch.Generator().manual_seed(11)
    patterns = torch.randn(4, 3, 8, 8, generator=random)
    labels = torch.arange(360) % 4
    images = patterns[labels] + torch.randn(360, 3, 8, 8, generator=random)
    return Data(
        "toy",
        CLASSES,
        (3, 8, 8),
        Pixels(images[:280], labels[:280], fixed),
        Pixels(images[280:], labels[280:]),
    )


def toy_network(seed=1, width=8):
    """Everything a loop must carry: batch norm, dropout, a depthwise and a 1×1 convolution."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, groups=width),
            nn.Conv2d(width, width, 1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(0.2),
            nn.Linear(width * 8 * 8, 4),
        )


def state_of(network):
    """Every tensor of a network as its bytes, to be compared to the last bit."""
    return {name: tensor.numpy().tobytes() for name, tensor in network.state_dict().items()}


QUICK = Schedule(epochs=3, batch=32, learning_rate=0.05, precision="fp32", test_every=1)


def test_a_network_learns_from_labels():
    data = toy_data()
    untrained = accuracy(toy_network(), data.test)
    trained = train(toy_network(), data, QUICK)
    assert trained.history[-1].loss < 0.3 * trained.history[0].loss
    assert trained.accuracy > 0.9  # chance is 0.25
    assert trained.accuracy > untrained + 0.3
    assert trained.epochs == 3
    assert trained.precision.name == "fp32"


def test_the_accuracy_told_is_that_of_the_network_returned():
    trained = train(toy_network(), toy_data(), replace(QUICK, epochs=1))
    assert trained.accuracy == accuracy(trained.network, toy_data().test)


def test_a_student_follows_the_teacher_and_not_the_labels_if_the_teacher_has_the_whole_weight():
    data = toy_data()
    shifted = replace(
        data,
        train=replace(data.train, labels=(data.train.labels + 1) % 4),
        test=replace(data.test, labels=(data.test.labels + 1) % 4),
    )
    teacher = train(toy_network(7), shifted, QUICK).network
    student = train(toy_network(), data, replace(QUICK, teacher_weight=1.0), teacher=teacher)
    assert accuracy(student.network, shifted.test) > 0.9
    assert student.accuracy < 0.05
    listening = train(toy_network(), data, replace(QUICK, teacher_weight=0.0), teacher=teacher)
    assert listening.accuracy > 0.9


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_the_loss_of_the_first_step_is_the_weighted_sum(weight):
    data, teacher, student = toy_data(), toy_network(7).eval(), toy_network()
    student[7] = nn.Identity()  # without dropout the first loss can be computed outside
    whole = replace(QUICK, epochs=1, batch=len(data.train), teacher_weight=weight, temperature=3.0)
    told = train(student, data, replace(whole, label_smoothing=0.1), teacher=teacher)
    said, answers = student(data.train.images), teacher(data.train.images)
    hard = nn.functional.cross_entropy(said, data.train.labels, label_smoothing=0.1)
    ratio = answers.div(3).softmax(1).log() - said.div(3).softmax(1).log()
    soft = 9 * (answers.div(3).softmax(1) * ratio).sum(1).mean()
    expected = weight * soft + (1 - weight) * hard
    # Two orders of summation in float32.
    assert told.history[0].loss == pytest.approx(expected.item(), rel=1e-4)


def test_knowing_the_teachers_answers_beforehand_changes_only_the_price():
    asked = 0

    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = toy_network(7)

        def __deepcopy__(self, memo):  # the loop asks a copy; count them all in one place
            return self

        def forward(self, images):
            nonlocal asked
            asked += 1
            return self.inner(images)

    seen = {}
    for fixed in (True, False):
        asked = 0
        result = train(toy_network(), toy_data(fixed=fixed), QUICK, teacher=Counting())
        seen[fixed] = asked, result
    assert seen[True][0] == 9  # 280 samples once, in batches of 32
    assert seen[False][0] == 24  # 8 whole batches in each of 3 epochs
    once, each = seen[True][1].network.state_dict(), seen[False][1].network.state_dict()
    # Other batches are summed in another order: rounding of 1e-7 a step, grown over 24 steps.
    torch.testing.assert_close(dict(once), dict(each), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_same_training_gives_the_same_bits(precision):
    schedule = replace(QUICK, epochs=2, precision=precision)
    first = train(toy_network(), toy_data(), schedule, teacher=toy_network(7))
    torch.manual_seed(999)  # whatever the caller draws meanwhile
    second = train(toy_network(), toy_data(), schedule, teacher=toy_network(7))
    other = train(toy_network(), toy_data(), schedule, teacher=toy_network(7), seed=1)
    assert state_of(first.network) == state_of(second.network)
    assert state_of(first.network) != state_of(other.network)


def test_dropout_and_order_are_drawn_anew_in_every_epoch():
    orders, dropped = [], []

    @dataclass(frozen=True)
    class Watched(Pixels):
        plain = property(lambda self: Pixels(self.images, self.labels))

        def batches(self, size, *, shuffle=None, **options):
            orders.append(shuffle)
            dropped.append(torch.rand(1).item())  # what the next random layer would draw
            return super().batches(size, shuffle=shuffle, **options)

    data = toy_data()
    watched = Watched(data.train.images, data.train.labels)
    train(toy_network(), replace(data, train=watched), QUICK)
    assert len(set(orders)) == len(set(dropped)) == 3


def test_nothing_given_is_changed():
    network, teacher, data = toy_network(), toy_network(7), toy_data()
    network.train()
    teacher.train()
    before = state_of(network), state_of(teacher), data.train.images.clone()
    generator = torch.get_rng_state()
    trained = train(network, data, replace(QUICK, epochs=1), teacher=teacher)
    assert (state_of(network), state_of(teacher)) == before[:2]
    assert torch.equal(data.train.images, before[2])
    assert torch.equal(torch.get_rng_state(), generator)
    assert not torch.backends.cudnn.deterministic
    for given in (network, teacher):
        assert all(module.training for module in given.modules())
        assert all(p.grad is None and p.requires_grad for p in given.parameters())
    assert state_of(trained.network) != before[0]


def test_the_network_returned_is_ready_to_be_used():
    trained = train(toy_network().double(), toy_data(), replace(QUICK, epochs=1)).network
    assert not any(module.training for module in trained.modules())
    for parameter in trained.parameters():
        assert parameter.dtype == torch.float32
        assert parameter.grad is None
        # Strides and not `is_contiguous`, which a 1×1 convolution satisfies in either layout.
        assert parameter.stride() == torch.empty(parameter.shape).stride()


def test_bf16_learns_too_and_keeps_its_parameters_in_float32():
    trained = train(toy_network(), toy_data(), replace(QUICK, precision="bf16"))
    assert trained.accuracy > 0.9
    assert all(parameter.dtype == torch.float32 for parameter in trained.network.parameters())
    wide = train(toy_network(), toy_data(), QUICK)
    assert state_of(trained.network) != state_of(wide.network)


def test_weights_decay_but_biases_and_norms_do_not():
    # A teacher that the student equals gives no gradient, so what moves was moved by decay.
    network = toy_network().eval()
    network[1], network[7] = nn.GroupNorm(2, 8), nn.Identity()
    data = toy_data()
    schedule = replace(QUICK, epochs=1, batch=len(data.train), warmup_epochs=0)
    decayed = train(network, data, replace(schedule, weight_decay=0.5, teacher_weight=1.0),
                    teacher=network).network  # fmt: skip
    for (name, before), after in zip(network.named_parameters(), decayed.parameters(), strict=True):
        # One Nesterov step of pure decay: 1 + momentum times rate times decay.
        share = 1 - 1.9 * schedule.learning_rate * 0.5 if before.ndim > 1 else 1.0
        torch.testing.assert_close(after, before * share, rtol=1e-4, atol=1e-6, msg=name)


def test_frozen_parameters_stay_and_a_wholly_frozen_network_is_refused():
    network = toy_network()
    network[0].requires_grad_(False)
    trained = train(network, toy_data(), replace(QUICK, epochs=1)).network
    assert torch.equal(trained[0].weight, network[0].weight)
    assert not torch.equal(trained[8].weight, network[8].weight)
    with pytest.raises(CompressError, match="every parameter of the network is frozen"):
        train(network.requires_grad_(False), toy_data(), QUICK)


def test_the_rate_runs_through_the_whole_training_and_not_through_each_epoch():
    asked = []

    class Noting(Schedule):
        def learning_rate_at(self, step, steps):
            asked.append((step, steps))
            return super().learning_rate_at(step, steps)

    train(toy_network(), toy_data(), Noting(epochs=3, batch=32, precision="fp32"))
    assert asked == [(step, 24) for step in range(24)]


def test_a_network_given_in_eval_mode_is_trained_all_the_same():
    asleep = train(toy_network().eval(), toy_data(), replace(QUICK, epochs=1))
    awake = train(toy_network().train(), toy_data(), replace(QUICK, epochs=1))
    assert state_of(asleep.network) == state_of(awake.network)


def test_clipping_bounds_the_step():
    def moved(clip):
        # The peak rate only, no momentum yet: one step is the rate times the gradient.
        one = replace(
            QUICK, epochs=1, batch=280, warmup_epochs=0, weight_decay=0, optimizer="sgd, momentum=0"
        )
        after = train(toy_network(), toy_data(), replace(one, clip_norm=clip)).network
        steps = zip(toy_network().parameters(), after.parameters(), strict=True)
        return sum((b - a).square().sum() for a, b in steps).sqrt().item()

    assert moved(0.01) == pytest.approx(0.01 * QUICK.learning_rate, rel=1e-3)
    assert moved(None) > 0.02 * QUICK.learning_rate


def test_a_loss_that_is_not_finite_is_an_error_with_its_place_and_the_way_out():
    data = toy_data()
    images = data.train.images.clone()
    images[5] = torch.inf
    broken = replace(data, train=replace(data.train, images=images))
    shown = [0]
    with pytest.raises(CompressError, match=r"the loss is nan in epoch 1, step (\d)") as caught:
        train(toy_network(), broken, QUICK, progress=lambda p: shown.append(p.step))
    assert caught.match(rf"step {shown[-1] + 1}, images \d+, \d+, \d+, \d+ …; its images are not finite$")
    assert "lower learning rate than 0.05" in caught.value.hint


def test_a_diverging_training_is_an_error_and_not_a_network_of_nans():
    with pytest.raises(CompressError, match=r"the loss is (nan|inf) in epoch 1, step \d, .*layer `\d`$"):
        train(toy_network(), toy_data(), replace(QUICK, learning_rate=1e9))


def test_a_teacher_with_broken_weights_is_named():
    teacher = toy_network(7)
    teacher[8].bias.data[0] = torch.nan
    with pytest.raises(CompressError, match="the teacher's logits are not all finite"):
        train(toy_network(), toy_data(), QUICK, teacher=teacher)


def test_a_split_that_breaks_its_promises_is_an_error():
    class Short(Pixels):
        def batches(self, size, **options):
            return iter(list(super().batches(size, **options))[:-1])

    data = toy_data()
    short = replace(data, train=Short(data.train.images, data.train.labels))
    with pytest.raises(CompressError, match="`toy` gave 7 batches of 32, its length 280 promises 8"):
        train(toy_network(), short, QUICK)
    with pytest.raises(
        CompressError, match="sample numbers of the training data are wrong, expected 0 to 279"
    ):
        train(toy_network(), short, QUICK, teacher=toy_network(7))
    empty = replace(data, train=Pixels(torch.zeros(0, 3, 8, 8), torch.zeros(0).long()))
    with pytest.raises(CompressError, match="the training half of `toy` is empty"):
        train(toy_network(), empty, QUICK)


def test_the_test_set_is_looked_at_as_often_as_asked_and_after_the_last_epoch():
    trained = train(toy_network(), toy_data(), replace(QUICK, epochs=5, test_every=2))
    assert [epoch.accuracy is not None for epoch in trained.history] == [False, True, False, True, True]
    assert trained.accuracy == trained.history[-1].accuracy
    assert trained.best_accuracy == max(e.accuracy for e in trained.history if e.accuracy is not None)


def test_progress_tells_every_step_and_the_accuracy_once_an_epoch():
    told = []
    trained = train(toy_network(), toy_data(), replace(QUICK, epochs=2), progress=told.append)
    steps = [(p.epoch, p.step) for p in told if p.accuracy is None]
    assert steps == [(epoch, step) for epoch in (1, 2) for step in range(1, 9)]
    assert [p.accuracy for p in told if p.accuracy is not None] == [
        epoch.accuracy for epoch in trained.history
    ]
    losses = [p.loss for p in told if p.epoch == 1 and p.accuracy is None]
    assert sum(losses) / 8 == pytest.approx(trained.history[0].loss, rel=1e-5)
    assert all(p.images_per_second > 0 and p.steps == 8 and p.epochs == 2 for p in told)


def test_a_batch_larger_than_the_data_is_one_step():
    data = toy_data()
    told = []
    train(copy.deepcopy(toy_network()), data, replace(QUICK, batch=1000), progress=told.append)
    assert {(p.step, p.steps) for p in told} == {(1, 1)}


# ---------------------------------------------------------------------- statistics and rates


@pytest.mark.parametrize("momentum", [0.001, 0.1, None])
def test_statistics_are_those_of_the_weights_whatever_the_momentum(momentum):
    network, data = toy_network(), toy_data()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = momentum
    trained = train(network, data, QUICK)
    first = next(module for module in trained.network if isinstance(module, nn.BatchNorm2d))
    read = []
    first.register_forward_pre_hook(lambda module, args: read.append(args[0]))
    with torch.no_grad():
        trained.network(data.train.images)
    mean = read[0].mean((0, 2, 3))
    # Of all but the last 24 of 280 images: a batch that is not full is left out.
    assert (first.running_mean - mean).abs().max() < 0.1 * read[0].std()
    assert first.momentum == momentum
    assert trained.accuracy == accuracy(trained.network, data.test)


def taught_pair():
    """A teacher that knows its data, and a student that is nearly there."""
    teacher = train(toy_network(), toy_data(), replace(QUICK, epochs=6)).network
    return teacher, train(toy_network(5), toy_data(), QUICK, teacher=teacher).network


def test_a_rate_that_destroys_what_a_network_knows_is_lowered_and_told():
    teacher, start = taught_pair()
    wild = replace(QUICK, epochs=1, learning_rate=1.2, warmup_epochs=0)
    guarded = train(start, toy_data(), wild, teacher=teacher, guarded=True)
    free = train(start, toy_data(), wild, teacher=teacher)
    (told,) = guarded.warnings
    assert "at a learning rate of 1.2 the loss on 256 training images went from" in told
    assert "trained again at 0.24" in told
    assert not free.warnings
    assert guarded.accuracy > free.accuracy + 0.5
    calm = train(start, toy_data(), replace(wild, learning_rate=0.05), teacher=teacher, guarded=True)
    assert calm.warnings == ()


def test_a_network_that_no_rate_makes_better_is_handed_out_as_it_began(tmp_path):
    teacher, start = taught_pair()
    wild = replace(QUICK, epochs=1, learning_rate=400, warmup_epochs=0, clip_norm=0.5)
    wild = replace(wild, optimizer="sgd, momentum=0")
    once = train(start, toy_data(), wild, teacher=teacher, guarded=True, checkpoints=tmp_path)
    assert ["trained again" in told for told in once.warnings] == [True, True, False]
    assert "handed out as it began" in once.warnings[-1]
    assert once.history == ()
    assert once.accuracy == accuracy(start, toy_data().test)
    again = train(start, toy_data(), wild, teacher=teacher, guarded=True, checkpoints=tmp_path)
    assert again.warnings == once.warnings
    for network in (once.network, again.network):
        assert all(map(torch.equal, network.state_dict().values(), start.state_dict().values()))
