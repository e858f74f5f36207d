"""A recipe survives TOML exactly, and everything that is misspelt or of the wrong kind is said."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compressor.artifacts.runtimes import RUNTIMES
from compressor.errors import UsageError
from compressor.exporting import FORMATS
from compressor.exporting.int8 import WEIGHT_STEPS
from compressor.pruning.scoring.combine import COMBINATIONS, NORMALISATIONS
from compressor.recipe import (
    DataRecipe,
    ExportRecipe,
    ModelRecipe,
    ProfileRecipe,
    Recipe,
    names,
    read_recipe,
    recipe_from,
    recipe_with,
)
from compressor.recipe.budget import COST_TITLES, Budget
from compressor.recipe.distilling import CascadeRecipe, Distilling
from compressor.recipe.listing import WIDTH, changes_from, keys_of, listed
from compressor.recipe.method_table import METHODS
from compressor.recipe.saliency import Scoring
from compressor.recipe.schedule import Schedule

# Everything but lone surrogates, which no file in UTF-8 can hold.
texts = st.text(st.characters(codec="utf-8"), max_size=12)
floats = st.floats(allow_nan=False)
recipes = st.builds(
    Recipe,
    seed=st.integers(0, 2**32 - 1),
    device=texts,
    model=st.builds(ModelRecipe, texts, texts),
    data=st.builds(
        DataRecipe,
        name=texts,
        root=texts,
        download=st.booleans(),
        size=st.none() | st.integers(),
        normalise=st.lists(st.lists(floats, max_size=3).map(tuple), max_size=2).map(tuple),
        classes=st.none() | st.integers(),
        test=texts,
        unlabelled=texts,
        augment=texts,
        teacher_augment=texts,
    ),
    budget=st.builds(
        Budget,
        remove=st.floats(0, 1, exclude_min=True, exclude_max=True),
        of=st.sampled_from(sorted(COST_TITLES)),
        max_macs=st.none() | st.integers(1),
        max_latency_ms=st.none() | st.floats(0.01, 1e9),
        keep=st.lists(texts, max_size=3).map(tuple),
        granule=st.integers(1),
        whole_heads=st.booleans(),
    ),
    saliency=st.builds(
        Scoring,
        texts,
        st.sampled_from(["", *COMBINATIONS]),
        st.sampled_from(["", *NORMALISATIONS]),
    ),
    distil=st.builds(
        Distilling,
        st.sampled_from([*METHODS]),
        texts,
        assistants=st.integers(1),
        between=st.lists(st.floats(0.01, 0.99), max_size=3, unique=True).map(sorted).map(tuple),
        cascade=st.builds(CascadeRecipe, st.floats(0.01, 1)),
        schedule=st.builds(
            Schedule,
            clip_norm=st.none() | st.floats(0.1, 1e300),
            optimizer=st.sampled_from(["sgd", "adamw, betas=[0.9, 0.95]"]),
        ),
    ),
    export=st.builds(
        ExportRecipe,
        st.none() | st.integers(),
        st.booleans(),
        st.lists(st.sampled_from([*FORMATS, "auto", "all"]), max_size=3).map(
            lambda more: ("onnx-int8", *more)
        ),
        max_accuracy_drop=st.floats(0, 100),
    ),
    profile=st.builds(
        ProfileRecipe,
        runtimes=st.lists(st.sampled_from(["pytorch", "openvino", "all"]), max_size=3).map(
            lambda names: ("ort", *names)
        ),
        batches=st.lists(st.integers(1), min_size=1, max_size=3).map(tuple),
        samples=st.integers(1),
    ),
)


def written(path: Path, text: str) -> Path:
    (path / "recipe.toml").write_text(text, encoding="utf-8", newline="")
    return path / "recipe.toml"


@given(recipe=recipes)
def test_a_recipe_survives_toml(tmp_path_factory: pytest.TempPathFactory, recipe: Recipe) -> None:
    path = written(tmp_path_factory.mktemp("recipe"), recipe.to_toml())
    assert read_recipe(path) == recipe


def test_an_empty_file_is_the_default_recipe(tmp_path: Path) -> None:
    assert read_recipe(written(tmp_path, "")) == Recipe()


def test_what_is_given_is_taken_and_the_rest_keeps_its_default(tmp_path: Path) -> None:
    text = 'seed = 7\n[budget]\nremove = 0.7\nkeep = ["head*"]\n[distil.schedule]\nepochs = 3\n'
    assert read_recipe(written(tmp_path, text)) == Recipe(
        seed=7, budget=Budget(0.7, keep=("head*",)), distil=Distilling(schedule=Schedule(epochs=3))
    )


@pytest.mark.parametrize(
    ("value", "message", "hint"),
    [
        ({"sead": 1}, "unknown recipe key `sead`", "did you mean `seed`?"),
        (
            {"budget": {"remvoe": 0.5}},
            r"unknown key in recipe section \[budget\] `remvoe`",
            "did you mean `remove`?",
        ),
        (
            {"distil": {"schedule": {"epoch": 2}}},
            r"unknown key in recipe section \[distil.schedule\] `epoch`",
            "did you mean `epochs` or `warmup_epochs`?",
        ),
    ],
)
def test_an_unknown_key_suggests_the_nearest(value: dict[str, Any], message: str, hint: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        recipe_from(value)
    assert caught.value.hint == hint


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"seed": "zero"}, "recipe key `seed` is 'zero', expected int"),
        ({"seed": 1.0}, "recipe key `seed` is 1.0, expected int"),
        ({"seed": True}, "recipe key `seed` is True, expected int"),
        ({"data": {"download": 1}}, "recipe key `data.download` is 1, expected bool"),
        ({"data": {"size": "big"}}, "recipe key `data.size` is 'big', expected int"),
        ({"distil": {"between": "x"}}, "recipe key `distil.between` is 'x', expected float"),
        ({"data": {"normalise": [[0.5, "x"]]}}, "recipe key `data.normalise` is 'x', expected float"),
        ({"budget": {"remove": True}}, "recipe key `budget.remove` is True, expected float"),
        ({"budget": 0.5}, "recipe key `budget` is 0.5, expected a section [budget]"),
        ({"model": [{"name": "a"}]}, "recipe key `model` is [{'name': 'a'}], expected a section [model]"),
    ],
)
def test_a_value_of_the_wrong_kind_is_named(value: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        recipe_from(value)
    assert str(caught.value) == message


def test_a_whole_number_will_do_for_a_float() -> None:
    recipe = recipe_from({"distil": {"schedule": {"temperature": 4}}, "data": {"normalise": [[0], [1]]}})
    assert recipe.data.normalise == ((0.0,), (1.0,))
    assert isinstance(recipe.distil.schedule.temperature, float)
    assert isinstance(recipe.data.normalise[0][0], float)


def test_values_out_of_range_are_refused_where_they_are_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot remove 1\.5 of the MACs"):
        read_recipe(written(tmp_path, "[budget]\nremove = 1.5\n"))


def test_a_file_that_is_no_toml_says_where(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"recipe `.*recipe.toml` is not TOML: .*line 1"):
        read_recipe(written(tmp_path, "seed = = 1"))
    (tmp_path / "recipe.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="is not TOML"):
        read_recipe(tmp_path / "recipe.toml")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read recipe `.*absent.toml`: No such file"):
        read_recipe(tmp_path / "absent.toml")


def test_settings_are_given_by_their_path() -> None:
    changes = {"budget.remove": 0.8, "distil.schedule.epochs": 9, "data.size": 64, "seed": 3}
    recipe = recipe_with(changes)
    assert (recipe.budget.remove, recipe.distil.schedule.epochs, recipe.data.size, recipe.seed) == (
        0.8,
        9,
        64,
        3,
    )
    assert recipe.budget.granule == Budget().granule
    assert changes["seed"] == 3
    with pytest.raises(UsageError, match="budget"):
        recipe_with({"budget.remov": 0.8})


def test_the_time_of_the_int8_file_asks_for_that_file() -> None:
    asked = {"budget.of": "latency-int8", "budget.max_latency_ms": 2.0}
    with pytest.raises(UsageError, match=r"chosen by the time of `onnx-int8`, and export\.to is") as caught:
        recipe_with(asked)
    assert caught.value.hint == "add `--to onnx-int8`"
    budget = recipe_with({**asked, "export.to": ["onnx", "onnx-int8"]}).budget
    assert (budget.remove, budget.cost, budget.timed_as) == (0.0, "latency", "onnx-int8")
    assert (budget.title_of("latency"), Budget().title_of("latency")) == ("latency in INT8", "latency")


def test_a_setting_that_is_not_given_is_not_written() -> None:
    assert "size" not in Recipe().to_dict()["data"]
    assert "opset" not in Recipe().to_toml()
    assert len(Recipe().to_dict()) == len(dataclasses.fields(Recipe))


def test_an_assistant_gets_its_share_of_the_epochs_and_of_the_warm_up() -> None:
    recipe = Distilling(schedule=Schedule(epochs=6, warmup_epochs=0.6))
    assert recipe.schedule_of("student") == recipe.schedule
    assistant = recipe.schedule_of("assistant-1")
    assert (assistant.epochs, assistant.warmup_epochs) == (3, 0.3)
    assert Distilling(schedule=Schedule(epochs=1)).schedule_of("assistant-1").epochs == 1


def test_limits_without_a_share_ask_for_no_share(tmp_path: Path) -> None:
    file = tmp_path / "recipe.toml"
    file.write_text("[budget]\nmax_params = 1000\n")
    assert read_recipe(file).budget.remove == 0.0
    assert read_recipe(file, {"budget.remove": 0.3}).budget.remove == 0.3

    file.write_text("[budget]\nremove = 0.4\n")
    assert read_recipe(file, {"budget.max_macs": 1000}).budget == Budget(0.4, max_macs=1000)
    assert recipe_with({"budget.max_macs": 1000}).budget.remove == 0.0
    assert recipe_with({}).budget == Budget()


def test_what_only_code_sets_is_no_key() -> None:
    assert "test_every" not in listed(Recipe())
    with pytest.raises(UsageError, match=r"unknown key in recipe section \[distil.schedule\] `annealing`"):
        recipe_with({"distil.schedule.annealing": "constant"})
    with pytest.raises(UsageError, match=r"budget\.keep_at_least is 0\.0, and a recipe has no such"):
        Recipe(budget=Budget(keep_at_least=0.0))
    with pytest.raises(UsageError, match=r"profile\.precision is 'fp16', and a recipe has no such"):
        Recipe(profile=ProfileRecipe(precision="fp16"))
    with pytest.raises(UsageError, match="annealing is 'constant', and a recipe has no such"):
        Recipe(distil=Distilling(schedule=Schedule(annealing="constant")))


def test_names_in_recipes_are_the_rows_of_the_tables_above() -> None:
    assert set(names.RUNTIME_NAMES) == set(RUNTIMES)
    assert tuple(FORMATS) == names.FORMAT_NAMES
    assert tuple(WEIGHT_STEPS) == names.INT8_WEIGHT_BITS
    assert tuple(COMBINATIONS) == names.COMBINATIONS
    assert tuple(NORMALISATIONS) == names.NORMALISATIONS


def test_every_key_is_listed_with_an_explanation_and_the_list_is_a_recipe(tmp_path: Path) -> None:
    long = [f"pkt={weight}, layers=layer2/stage3" for weight in range(9)]
    recipe = recipe_with({"budget.max_macs": 7, "distil.losses": long, "seed": 3})
    assert read_recipe(written(tmp_path, listed(recipe))) == recipe
    assert max(map(len, listed(Recipe()).splitlines())) <= WIDTH
    for path, _, explanation in keys_of(recipe):
        assert path.rpartition(".")[2] in listed(recipe)
        assert explanation.strip() == explanation != ""


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("budget.granule=16", 16),
        ("budget.keep=head.*", "head.*"),
        ("distil.between=[0.2, 0.3]", [0.2, 0.3]),
        ("data.download=true", True),
        ("distil.losses=pkt=100, decay=0.7", "pkt=100, decay=0.7"),
    ],
)
def test_a_change_is_a_dotted_key_and_a_value_of_toml_or_plain_text(text: str, value: object) -> None:
    assert list(changes_from([text]).values()) == [value]


def test_one_value_is_a_list_of_one_where_a_list_is_expected() -> None:
    changed = recipe_with(changes_from(["budget.keep=head.*", "distil.losses=pkt=100, decay=0.7"]))
    assert changed.budget.keep == ("head.*",)
    assert changed.distil.losses == ("pkt=100, decay=0.7",)


@pytest.mark.parametrize("text", ["budget.granule", "=3"])
def test_a_change_without_a_key_or_a_value_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="has no value"):
        changes_from([text])


def test_a_misspelt_key_of_a_change_is_met_with_the_nearest_right_one() -> None:
    with pytest.raises(UsageError, match="granul") as caught:
        recipe_with(changes_from(["budget.granul=3"]))
    assert "did you mean `granule`" in str(caught.value.hint)
