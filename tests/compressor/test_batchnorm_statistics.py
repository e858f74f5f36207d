"""Batch-norm statistics measured again, against the averages computed directly."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from compressor.errors import CompressError, UsageError
from compressor.training.batchnorm_statistics import reestimate

from .test_training_loop import Pixels, state_of, toy_data


def test_the_statistics_are_the_plain_average_over_the_batches_asked_for():
    split = toy_data().train
    network = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm2d(3, momentum=0.3), nn.Flatten())
    measured = reestimate(network, split, batches=3, batch=10, seed=5)
    batches = [batch.images for batch in split.batches(10, shuffle=5)][:3]
    means = torch.stack([images.mean((0, 2, 3)) for images in batches]).mean(0)
    variances = torch.stack([images.var((0, 2, 3)) for images in batches]).mean(0)
    # 3 numbers averaged in float32: rounding is of the order of 1e-7.
    torch.testing.assert_close(measured[1].running_mean, means, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(measured[1].running_var, variances, rtol=1e-5, atol=1e-6)
    assert measured[1].momentum == 0.3
    assert not any(module.training for module in measured.modules())


def test_the_network_given_is_not_changed():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    before = copy.deepcopy(network.state_dict())
    measured = reestimate(network, toy_data().train, batches=2)
    assert network.training
    assert network[1].momentum == 0.1
    torch.testing.assert_close(dict(network.state_dict()), dict(before), rtol=0, atol=0)
    assert not torch.equal(measured[1].running_mean, network[1].running_mean)


def test_a_network_without_batch_norm_comes_back_as_an_equal_copy():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.Identity())
    network[2] = nn.BatchNorm2d(4, track_running_stats=False)  # it remembers nothing
    same = reestimate(network, toy_data().train, batches=2)
    assert same is not network
    assert state_of(same) == state_of(network)


def test_what_cannot_be_measured_is_refused():
    network = nn.BatchNorm2d(3)
    empty = Pixels(torch.zeros(0, 3, 2, 2), torch.zeros(0).long())
    with pytest.raises(CompressError, match="the split is empty"):
        reestimate(network, empty, batches=1)
    with pytest.raises(UsageError, match="`batches` is 0"):
        reestimate(network, toy_data().train, batches=0)
