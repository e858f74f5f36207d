"""Accuracy of networks and of plain functions."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from compressor.errors import CompressError
from compressor.training.evaluate import accuracy

from .test_training_loop import Pixels, toy_data


def test_accuracy_is_the_share_of_right_answers_over_an_uneven_last_batch():
    split = Pixels(torch.zeros(7, 1, 2, 2), torch.tensor([0, 1, 1, 1, 2, 2, 0]))

    def always_one(images):
        return torch.tensor([[0.0, 1.0, 0.0]]).expand(len(images), 3)

    assert accuracy(always_one, split, batch=3) == pytest.approx(3 / 7)


def test_a_network_is_asked_in_eval_mode_and_left_as_it_was():
    split = toy_data().test
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 4), nn.Dropout(0.9))
    network[1].eval()
    expected = accuracy(lambda images: network[1](network[0](images)), split)
    assert accuracy(network, split) == expected
    assert [module.training for module in network] == [True, False, True]
    assert network.training


def test_an_empty_split_has_no_accuracy():
    with pytest.raises(CompressError, match="the split is empty"):
        accuracy(lambda images: images, Pixels(torch.zeros(0, 1, 2, 2), torch.zeros(0).long()))
