"""The learning rate of every step, and the schedules that are refused."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise

import pytest

from compressor.errors import UsageError
from compressor.recipe.optimizer_text import optimizer_of
from compressor.recipe.schedule import Schedule


def test_the_rate_warms_up_in_a_line_and_falls_along_a_cosine():
    schedule = Schedule(epochs=10, learning_rate=0.4, warmup_epochs=1)
    rates = [schedule.learning_rate_at(step, 40) for step in range(40)]
    assert rates[:4] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert rates[4] == pytest.approx(0.4)
    assert rates[4 + 18] == pytest.approx(0.2)  # half-way down after half of the 36 steps
    assert all(later < earlier for earlier, later in pairwise(rates[4:]))
    assert 0 < rates[-1] < 0.001


def test_without_warm_up_the_first_step_has_the_peak_rate():
    schedule = Schedule(epochs=3, learning_rate=0.1, warmup_epochs=0)
    assert schedule.learning_rate_at(0, 9) == pytest.approx(0.1)


def test_a_constant_rate_stays_where_its_warm_up_ends():
    schedule = Schedule(epochs=4, learning_rate=0.4, warmup_epochs=1, annealing="constant")
    assert [schedule.learning_rate_at(step, 8) for step in range(8)] == pytest.approx([0.2, *[0.4] * 7])


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_shortest_trainings_have_a_rate_above_zero_at_every_step(steps):
    schedule = Schedule(epochs=1, warmup_epochs=0.9)
    assert all(schedule.learning_rate_at(step, steps) > 0 for step in range(steps))


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"epochs": 0}, "`epochs` is 0, expected at least 1"),
        ({"batch": 0}, "`batch` is 0"),
        ({"annealing": "cosin"}, "unknown annealing `cosin`"),
        ({"learning_rate": 0.0}, "`learning_rate` is 0.0, expected above 0"),
        ({"learning_rate": float("nan")}, "`learning_rate` is nan"),
        ({"learning_rate": float("inf")}, "`learning_rate` is inf"),
        ({"optimizer": "sgd, momentum=1.0"}, "optimizer `sgd, momentum=1.0`: momentum is 1.0"),
        ({"optimizer": "sgd, beta1"}, "`beta1` is not NAME=VALUE"),
        ({"optimizer": "adam, betas=[0.9"}, r"`betas=\[0.9` is not NAME=VALUE"),
        ({"optimizer": "adam, betas=0.9, 0.95"}, "`0.95` is not NAME=VALUE"),
        ({"optimizer": "sgd, lr=0.1"}, "lr is a key of its own"),
        ({"optimizer": "momentum=0.9"}, "begins with no name"),
        ({"mix": ("mixed=1",)}, "unknown way of mixing `mixed`"),
        ({"mix": ("mixup",)}, "`mix` has `mixup`, expected an alpha above 0"),
        ({"mix": ("cutmix=0",)}, "`mix` has `cutmix=0`"),
        ({"mix": ("mixup=1", "mixup=2")}, "expected each way of mixing once"),
        ({"weight_decay": -1e-4}, "`weight_decay` is -0.0001"),
        ({"warmup_epochs": 2}, r"`warmup_epochs` is 2, expected at least 0 and below epochs \(2\)"),
        ({"label_smoothing": 1.0}, "`label_smoothing` is 1.0"),
        ({"temperature": 0.0}, "`temperature` is 0.0"),
        ({"teacher_weight": 1.5}, "`teacher_weight` is 1.5"),
        ({"clip_norm": 0.0}, "`clip_norm` is 0.0"),
        ({"precision": "bf61"}, "unknown precision `bf61`"),
    ],
)
def test_a_wrong_schedule_is_refused_by_the_name_of_its_field(wrong, named):
    with pytest.raises(UsageError, match=named):
        Schedule(**{"epochs": 2} | wrong)


def test_an_optimizer_is_a_name_and_settings():
    assert optimizer_of("sgd") == ("sgd", {})
    found = optimizer_of("AdamW, betas=[0.9, 0.95],amsgrad = true, eps=1e-6")
    assert found == ("AdamW", {"betas": (0.9, 0.95), "amsgrad": True, "eps": 1e-6})


def test_a_schedule_is_read_without_loading_torch():
    code = "import sys; from compressor.recipe.schedule import Schedule; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
