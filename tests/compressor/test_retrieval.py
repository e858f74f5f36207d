"""Retrieval: rankings computed by hand, images at the same distance, and the choice of layer."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from torch import nn

from compressor.commands import retrieval
from compressor.commands.retrieval import Embeddings, evaluate_retrieval, measures, rankings
from compressor.data.split import Data
from compressor.errors import CompressError, UsageError
from tests.compressor.test_comparisons import Staged, few
from tests.compressor.test_training_loop import Pixels


def line(*places: float, labels: list[int]) -> Embeddings:
    """Embeddings on a line."""
    return Embeddings(torch.tensor(places)[:, None], torch.tensor(labels))


def test_a_ranking_that_was_computed_by_hand() -> None:
    database = line(1, 2, 3, 4, 5, labels=[1, 0, 1, 1, 0])
    found = rankings(line(0, labels=[1]), database, "euclidean")
    assert found.map == pytest.approx((1 / 1 + 2 / 3 + 3 / 4) / 3)
    # Recall 0 to 0.3 is reached at rank 1 with precision 1, all beyond at best with 3/4, at rank 4.
    assert found.map_11 == pytest.approx((4 * 1 + 7 * 0.75) / 11)
    assert found.precision_100 == pytest.approx(3 / 5)


def test_measures_are_means_over_queries_however_many_are_held_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    random = torch.Generator().manual_seed(1)
    database = Embeddings(torch.randn(30, 3, generator=random), torch.arange(30) % 3)
    queries = Embeddings(torch.randn(7, 3, generator=random), torch.arange(7) % 3)
    each = [
        rankings(Embeddings(queries.rows[i : i + 1], queries.labels[i : i + 1]), database, "euclidean").map
        for i in range(7)
    ]
    whole = rankings(queries, database, "euclidean")
    assert whole.map == pytest.approx(sum(each) / 7)
    monkeypatch.setattr(retrieval, "AT_ONCE", 60)
    assert rankings(queries, database, "euclidean").map_11 == pytest.approx(whole.map_11, abs=1e-15)


def test_cosine_looks_at_directions_alone() -> None:
    database = Embeddings(torch.tensor([[9.0, 1.0], [0.1, 0.1], [0.0, 1.0]]), torch.tensor([0, 1, 1]))
    query = Embeddings(torch.tensor([[1.0, 0.0]]), torch.tensor([0]))
    assert rankings(query, database, "cosine").map == 1
    assert rankings(query, database, "euclidean").map == pytest.approx(1 / 3)


@pytest.mark.parametrize("relevant", [[1, 1, 0, 0, 1], [0, 1, 0, 1, 0], [1, 0, 1, 0, 1]])
def test_images_at_one_distance_count_as_in_the_mean_over_all_their_orders(relevant: list[int]) -> None:
    """The second to the fourth of five are at the same distance."""
    ordered = torch.tensor([[0.0, 1, 1, 1, 2]])
    found, _, _ = measures(ordered, torch.tensor([relevant]).bool())
    apart = torch.arange(5.0)[None]
    orders = [
        measures(apart, torch.tensor([[relevant[0], *middle, relevant[4]]]).bool())[0].item()
        for middle in itertools.permutations(relevant[1:4])
    ]
    assert found.item() == pytest.approx(sum(orders) / len(orders))


def test_an_embedding_that_is_the_same_for_all_is_as_good_as_chance_however_the_database_is_sorted() -> None:
    database = Embeddings(torch.ones(40, 3), torch.arange(4).repeat_interleave(10))
    found = rankings(Embeddings(torch.ones(4, 3), torch.arange(4)), database, "euclidean")
    assert found.map_11 == pytest.approx(0.25)
    assert found.precision_100 == pytest.approx(0.25)


def test_only_the_hundred_nearest_count_for_their_precision() -> None:
    database = Embeddings(torch.arange(400.0)[:, None], (torch.arange(400) >= 60).long())
    found = rankings(line(-1, labels=[0]), database, "euclidean")
    assert found.precision_100 == pytest.approx(0.6)
    assert found.map == found.map_11 == 1


def test_a_class_that_the_database_does_not_have_is_an_error() -> None:
    with pytest.raises(CompressError, match="images of class 2, the database has none"):
        rankings(line(0, 1, labels=[0, 2]), line(0, labels=[0]), "euclidean")


def test_the_embedding_is_what_the_last_linear_layer_is_given_unless_a_layer_is_named() -> None:
    network, data = Staged(4).train(), few()
    found = evaluate_retrieval(network, data)
    assert network.training

    def rows(half: Pixels, of: nn.Module) -> Embeddings:
        with torch.no_grad():
            return Embeddings(of(half.images).flatten(1), half.labels)

    network.eval()
    body = nn.Sequential(network.stem, network.deep, network.pool)
    assert found["cosine"] == rankings(rows(data.test, body), rows(data.train, body), "cosine")
    stem = rankings(rows(data.test, network.stem), rows(data.train, network.stem), "euclidean")
    assert evaluate_retrieval(network, data, layer="stem")["euclidean"] == stem


def test_a_layer_that_is_not_there_is_one_line_with_those_that_are() -> None:
    with pytest.raises(UsageError, match="the network has no layer `deeper`") as caught:
        evaluate_retrieval(Staged(4), few(), layer="deeper")
    assert "embedding [8]" in str(caught.value.hint)


def test_pictures_without_labels_are_refused() -> None:
    data = few()
    bare = Data("bare", data.classes, data.shape, replace(data.train, labelled=False), data.test)
    with pytest.raises(UsageError, match="retrieval needs labels"):
        evaluate_retrieval(Staged(4), bare)
