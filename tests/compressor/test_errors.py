"""The tree of errors, their exit codes, and what a wrong name is told."""

from __future__ import annotations

import pytest

from compressor.errors import CompressError, UsageError, unknown_name


@pytest.mark.parametrize(("kind", "code"), [(CompressError, 1), (UsageError, 2)])
def test_each_error_has_its_exit_code_and_is_caught_as_one_of_ours(
    kind: type[CompressError], code: int
) -> None:
    error = kind("what is wrong", "the way out")
    assert isinstance(error, CompressError)
    assert (str(error), error.hint, error.exit_code) == ("what is wrong", "the way out", code)
    assert kind("what is wrong").hint is None


def test_a_wrong_name_is_told_the_nearest_first() -> None:
    error = unknown_name("model", "resnet81", ["vgg11", "resnet50", "resnet18"])
    assert str(error) == "unknown model `resnet81`"
    assert str(error.hint).startswith("did you mean `resnet18` or ")
    assert "vgg11" not in str(error.hint)
    assert isinstance(error, UsageError)


def test_a_name_like_no_other_is_told_all_of_them_in_order() -> None:
    assert unknown_name("cost", "zzz", ["params", "macs"]).hint == "known: macs, params"


def test_a_long_list_is_cut_short() -> None:
    hint = str(unknown_name("model", "zzz", [f"name{i:02}" for i in range(50)]).hint)
    assert hint == "known: " + ", ".join(f"name{i:02}" for i in range(12)) + ", …"
