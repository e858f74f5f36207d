"""Losses as a recipe writes them."""

import pytest

from compressor.errors import UsageError
from compressor.recipe.loss_terms import terms_of


def test_a_name_alone_has_the_usual_weight_and_the_layers_that_are_found() -> None:
    (term,) = terms_of(["pkt"])
    assert (term.name, term.weight, term.layers, term.settings) == ("pkt", None, None, {})
    assert [term.share_at(epoch) for epoch in (0, 7)] == [1.0, 1.0]


def test_weights_layers_and_settings_are_read() -> None:
    (term,) = terms_of(["pkt = 100, layers=layer2/stage3 layer3, form=code, edges=0.5"])
    assert term.weight == 100
    assert term.layers == (("layer2", "stage3"), ("layer3", "layer3"))
    assert term.settings == {"form": "code", "edges": 0.5}
    assert terms_of(["pkt, layers=auto"])[0].layers == ()


def test_a_weight_decays_ramps_and_switches_by_the_epoch() -> None:
    critical, ramped, switched = terms_of(["pkt=100, decay=0.7", "kd++, ramp=4", "fitnet, start=3, until=5"])
    # The critical period of information flow: 100 · 0.7^e is 1.98 in epoch 11 and below 1 from 13 on.
    assert 100 * critical.share_at(11) == pytest.approx(1.977, abs=1e-3)
    assert 100 * critical.share_at(13) < 1
    assert [ramped.share_at(epoch) for epoch in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert [switched.share_at(epoch) for epoch in range(6)] == [0, 0, 0, 1, 1, 0]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "it names no loss"),
        ("pkt=much", "weight is `much`, expected a number"),
        ("pkt=-1", "weight is -1, expected at least 0"),
        ("pkt=1, decay=0", "decay is 0, expected above 0"),
        ("pkt=1, decay=nan", "decay is nan"),
        ("pkt=1, ramp=0", "ramp is `0`, expected epochs, at least 1"),
        ("pkt=1, until=-3", "until is `-3`"),
        ("pkt=1, sometimes", "`sometimes` is not NAME=VALUE"),
    ],
)
def test_what_cannot_be_read_is_one_line_with_an_example(text: str, reason: str) -> None:
    with pytest.raises(UsageError, match=f"loss `{text}`: .*{reason}") as caught:
        terms_of([text])
    assert "as in `pkt`" in str(caught.value.hint)


def test_layers_that_are_half_a_pair_are_one_line_with_an_example() -> None:
    with pytest.raises(
        UsageError, match="loss `pkt, layers=a/`: `a/` is not STUDENT_LAYER/TEACHER_LAYER"
    ) as caught:
        terms_of(["pkt, layers=a/"])
    assert caught.value.hint == "as in `layer2/stage3 layer3`"
