"""What goes wrong in a training is named, mended where it can be, and said."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from compressor.errors import CompressError, UsageError
from compressor.training import train
from compressor.training.failures import first_not_finite, is_out_of_memory

from .test_training_loop import QUICK, one_thread, state_of, toy_data, toy_network  # noqa: F401


class Explodes(nn.Module):
    """Gives infinity in training, from the given calls on."""

    def __init__(self, *calls):
        super().__init__()
        self.calls, self.count = calls, 0

    def __deepcopy__(self, memo):  # one count for all copies
        return self

    def forward(self, x):
        if not self.training:
            return x
        self.count += 1
        return x * torch.inf if self.count in self.calls else x


def exploding(*calls):
    network = toy_network()
    network[7] = Explodes(*calls)
    return network


def test_a_loss_that_is_not_finite_goes_back_once_and_on_at_half_the_rate(tmp_path):
    # Step 10 is the second of the second epoch; the layer is looked for in an eleventh call.
    trained = train(exploding(10, 11), toy_data(), QUICK, checkpoints=tmp_path)
    assert trained.accuracy > 0.9
    (said,) = trained.warnings
    assert "the loss is nan in epoch 2, step 2" in said
    assert "comes from layer `7`" in said
    assert "went back once, and on at half the learning rate" in said
    slower = train(exploding(), toy_data(), QUICK)
    assert state_of(trained.network) != state_of(slower.network)


def test_the_second_time_it_is_an_error(tmp_path):
    with pytest.raises(CompressError, match=r"the loss is nan in epoch 2, step 4, images .* layer `7`$"):
        train(exploding(10, 11, 15, 16), toy_data(), QUICK, checkpoints=tmp_path)


def test_a_training_that_went_back_and_is_killed_then_still_knows_it(tmp_path):
    unbroken = train(exploding(10, 11), toy_data(), QUICK, checkpoints=tmp_path / "unbroken")

    def killed(now):
        if (now.epoch, now.step) == (3, 2):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(exploding(10, 11), toy_data(), QUICK, checkpoints=tmp_path / "killed", progress=killed)
    continued = train(exploding(), toy_data(), QUICK, checkpoints=tmp_path / "killed")
    # The digest of the network does not see the layer's count, so the three are one training.
    assert state_of(continued.network) == state_of(unbroken.network)
    assert continued.warnings == unbroken.warnings


def test_the_place_is_an_image_a_weight_or_a_layer():
    images = torch.randn(2, 3, 8, 8)
    network = toy_network().train()
    assert first_not_finite({"": network}, images / 0) == "; its images are not finite"
    network[4].weight.data[0, 0] = torch.nan
    assert (
        first_not_finite({"student": network}, images)
        == "; the weights `4.weight` of the student are not finite"
    )
    network = toy_network()
    network[4].weight.data.fill_(1e38)
    network[3].bias.data.fill_(1e6)
    assert (
        first_not_finite({"": network}, images)
        == "; the first output that is not finite comes from layer `4`"
    )
    assert "the loss function yields it" in first_not_finite({"": toy_network()}, images)


class Hungry(nn.Module):
    """Has memory for so many images at once."""

    def __init__(self, most):
        super().__init__()
        self.most, self.seen = most, []

    def __deepcopy__(self, memo):
        return self

    def forward(self, x):
        if self.training and len(x) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        if self.training:
            self.seen.append(len(x))
        return x


def without_batch_statistics(first):
    """What does not depend on which images are looked at together."""
    network = toy_network()
    network[1], network[7] = nn.GroupNorm(2, 8), nn.Identity()
    return nn.Sequential(first, network)


def test_where_memory_ends_the_pieces_are_halved_and_the_batch_stays():
    hungry = Hungry(10)
    trained = train(without_batch_statistics(hungry), toy_data(), replace(QUICK, epochs=1))
    assert hungry.seen == [8, 8, 8, 8] * 8
    assert [text.split(":")[1][:11] for text in trained.warnings] == [" 16 images ", " 8 images a"]
    whole = train(without_batch_statistics(nn.Identity()), toy_data(), replace(QUICK, epochs=1))
    for mine, theirs in zip(
        trained.network.state_dict().values(), whole.network.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-5)  # sums in another order, over 8 steps


def test_memory_that_does_not_hold_one_image_is_an_error():
    with pytest.raises(CompressError, match="out of memory with a single image: CUDA out of memory"):
        train(without_batch_statistics(Hungry(0)), toy_data(), QUICK)
    assert is_out_of_memory(
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 12 bytes")
    )
    assert not is_out_of_memory(RuntimeError("shape mismatch"))


@pytest.mark.parametrize(
    ("optimizer", "rate"),
    [("adamw, betas=[0.8, 0.9], amsgrad=true", 0.003), ("RMSprop", 0.002), ("sgd", 0.05)],
)
def test_any_optimizer_of_torch_trains(optimizer, rate):
    schedule = replace(QUICK, optimizer=optimizer, learning_rate=rate)
    assert train(toy_network(), toy_data(), schedule).accuracy > 0.9


def test_optimizers_and_settings_that_do_not_exist_are_named():
    with pytest.raises(UsageError, match="unknown optimizer `adamv`") as caught:
        train(toy_network(), toy_data(), replace(QUICK, optimizer="adamv"))
    assert "did you mean `adam`" in str(caught.value.hint)
    with pytest.raises(UsageError, match=r"refuses its settings: .*beta"):
        train(toy_network(), toy_data(), replace(QUICK, optimizer="sgd, betas=[0.9, 0.95]"))


@pytest.mark.parametrize("mix", [("mixup=0.3",), ("cutmix=1.0",), ("cutmix=1.0", "mixup=0.3")])
def test_mixed_pictures_are_mixed_before_the_teacher_is_asked(mix):
    seen = []

    class Looking(nn.Module):
        def __deepcopy__(self, memo):
            return self

        def forward(self, images):
            seen.append(images.clone())
            return torch.zeros(len(images), 4)

    data = toy_data()
    train(toy_network(), data, replace(QUICK, epochs=1, mix=mix), teacher=Looking())
    known = {image.numpy().tobytes() for image in data.train.images}
    fresh = [image for batch in seen for image in batch if image.numpy().tobytes() not in known]
    assert len(seen) == 8  # live: what is mixed cannot be known beforehand
    assert len(fresh) > 100


def test_pictures_without_labels_need_a_teacher_who_is_followed_alone():
    data = toy_data()
    unlabelled = replace(data, train=replace(data.train, labels=torch.full((280,), -1), labelled=False))
    for schedule, teacher in ((QUICK, toy_network(7)), (replace(QUICK, teacher_weight=1.0), None)):
        with pytest.raises(UsageError, match="the pictures of `toy` have no labels, and the loss needs them"):
            train(toy_network(), unlabelled, schedule, teacher=teacher)
    teacher = train(toy_network(7), data, QUICK).network
    followed = train(toy_network(), unlabelled, replace(QUICK, teacher_weight=1.0), teacher=teacher)
    assert followed.accuracy > 0.9
