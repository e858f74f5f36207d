"""The built-in teacher is a real residual network, and learns the built-in glyphs."""

import pytest
import torch
from torch import nn

from compressor.data.glyphs import CLASSES, SIZE, load_glyphs
from compressor.errors import UsageError
from compressor.models.glyphnet import Block, GlyphNet


def test_it_gives_one_logit_for_each_class() -> None:
    assert GlyphNet(CLASSES)(torch.zeros(2, 3, SIZE, SIZE)).shape == (2, CLASSES)


@pytest.mark.parametrize("size", [8, 24, 28, 33])
def test_it_takes_images_of_any_size(size: int) -> None:
    assert GlyphNet(5, channels=1)(torch.zeros(2, 1, size, size)).shape == (2, 5)


def test_a_block_adds_its_input_to_what_it_computes() -> None:
    block = Block(8, 8, 1).eval()
    nn.init.zeros_(block.bn2.weight)
    x = torch.rand(1, 8, 6, 6)
    torch.testing.assert_close(block(x), x, rtol=0, atol=0)


def test_a_block_that_changes_the_shape_projects_its_shortcut() -> None:
    block = Block(8, 16, 2)
    assert isinstance(block.shortcut, nn.Sequential)
    assert block(torch.rand(2, 8, 6, 6)).shape == (2, 16, 3, 3)


def test_its_first_stage_is_tied_to_the_stem_and_the_others_are_not() -> None:
    network = GlyphNet(CLASSES)
    shortcuts = [stage[0].shortcut for stage in (network.stage1, network.stage2, network.stage3)]
    assert [isinstance(shortcut, nn.Identity) for shortcut in shortcuts] == [True, False, False]


def test_widths_and_blocks_can_be_chosen() -> None:
    network = GlyphNet(10, widths=(8, 16, 32), blocks=3)
    assert [len(stage) for stage in (network.stage1, network.stage2, network.stage3)] == [3, 3, 3]
    assert network.head.in_features == 32


def test_every_default_width_is_a_multiple_of_eight() -> None:
    convolutions = [module for module in GlyphNet(CLASSES).modules() if isinstance(module, nn.Conv2d)]
    assert all(convolution.out_channels % 8 == 0 for convolution in convolutions)


@pytest.mark.parametrize("wrong", [{"classes": 1}, {"channels": 0}, {"blocks": 0}, {"widths": (8, 0, 8)}])
def test_a_network_that_cannot_be_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="cannot build"):
        GlyphNet(**{"classes": 10, **wrong})  # type: ignore[arg-type]


def test_a_small_one_learns_a_few_glyphs() -> None:
    torch.manual_seed(0)
    data = load_glyphs(classes=4, train=1600, test=200)
    network = GlyphNet(4, widths=(8, 16, 32))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    for shuffle in range(6):
        for batch in data.train.batches(32, shuffle=shuffle):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(batch.images), batch.labels).backward()
            optimizer.step()
    network.eval()
    batch = next(data.test.batches(200))
    assert (network(batch.images).argmax(dim=1) == batch.labels).float().mean() > 0.7
