"""Losses beside answers and labels: where they look, what they make, and that it is gone in the end."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compressor.data.split import Data
from compressor.errors import CompressError, UsageError
from compressor.pruning.cutting.program_write import program_of
from compressor.pruning.graph.recording.example import inputs_of
from compressor.pruning.widths.plan import Plan
from compressor.recipe.loss_terms import terms_of
from compressor.training import Arithmetic, Guide, Schedule, Taught, train
from compressor.training.comparisons import Beside, Seen
from compressor.training.comparisons.comparison import turned
from compressor.training.comparisons.comparison_table import COMPARISONS
from compressor.training.comparisons.rotations import nearly_right
from compressor.training.layer_outputs import EMBEDDING, Places, pairs_of
from compressor.training.lesson import loss_of
from compressor.training.losses import LOSSES, cross_entropy, dsr, fitnet, kd, multi_head, pkt, tst
from tests.compressor.test_training_loop import CLASSES, Pixels, state_of

FP32 = Arithmetic.on(torch.device("cpu"), "fp32")
SCHEDULE = Schedule(epochs=2, batch=16, learning_rate=0.02, warmup_epochs=0, precision="fp32", test_every=1)


class Staged(nn.Module):
    """Three resolutions, the last one of a single pixel; blocks that are lists of layers."""

    def __init__(self, width: int = 8, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.stem = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
            self.deep = nn.Sequential(
                nn.Conv2d(width, 2 * width, 3, 2, 1), nn.BatchNorm2d(2 * width), nn.ReLU()
            )
            self.pool = nn.AdaptiveAvgPool2d(1)
            self.head = nn.Linear(2 * width, len(CLASSES))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.pool(self.deep(self.stem(images))).flatten(1))


class Other(nn.Module):
    """A network of another make, with other names and three stages."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 6, 3, 2, 1)
        self.third = nn.Conv2d(6, 10, 3, 2, 1)
        self.out = nn.Linear(10, len(CLASSES))

    def forward(self, images: Tensor) -> Tensor:
        return self.out(self.third(self.second(self.first(images)).relu()).mean((2, 3)))


def few() -> Data:
    random = torch.Generator().manual_seed(3)
    patterns = torch.randn(4, 3, 8, 8, generator=random)
    labels = torch.arange(64) % 4
    images = patterns[labels] + torch.randn(64, 3, 8, 8, generator=random)
    return Data("few", CLASSES, (3, 8, 8), Pixels(images[:48], labels[:48]), Pixels(images[48:], labels[48:]))


def beside(*texts: str, student: nn.Module, teacher: nn.Module | None) -> Beside:
    return Beside(terms_of(texts), student, teacher, few(), FP32, schedule=SCHEDULE)


def looked(
    extra: Beside, student: nn.Module, teacher: nn.Module | None, images: Tensor, labels: Tensor
) -> Seen:
    """What a lesson shows to the losses beside."""
    images = turned(images) if extra.ways > 1 else images
    with extra.watching(student, teacher) as (mine, theirs):
        told = None if teacher is None else teacher(images).detach()
        said = student(images)
    return Seen(
        images,
        labels,
        said,
        told,
        mine,
        {k: v.detach() for k, v in theirs.items()},
        extra.ways,
        (student, teacher),
    )


def test_the_last_layer_of_each_resolution_is_found_and_what_the_classifier_is_given() -> None:
    places = Places(Staged().eval(), torch.zeros(1, 3, 8, 8), "student")
    assert places.stages == ["stem", "deep"]
    assert places.shapes["deep"] == (16, 4, 4)
    assert places.classifier == "head"
    assert places.shapes[EMBEDDING] == (16,)


def test_stages_are_paired_by_name_or_from_the_end() -> None:
    image = torch.zeros(1, 3, 8, 8)
    narrow, wide, other = (Places(n.eval(), image, "x") for n in (Staged(4), Staged(8), Other()))
    assert pairs_of(narrow, wide) == [("stem", "stem"), ("deep", "deep")]
    assert pairs_of(narrow, other) == [("stem", "second"), ("deep", "third")]


def test_what_is_added_is_weight_times_loss_of_what_the_layers_gave_out() -> None:
    student, teacher = Staged(4).train(), Staged(8, seed=1).eval()
    extra = beside(
        "pkt=3, layers=stem", "fitnet=0.5, decay=0.5, layers=deep", "dist=2", student=student, teacher=teacher
    )
    images, labels = torch.randn(16, 3, 8, 8), torch.arange(16) % 4
    seen = looked(extra, student, teacher, images, labels)
    said, told = seen.said, seen.told
    found = extra.loss(2, seen)
    mapped = extra.comparisons[1].projections[0](student.deep(student.stem(images)))
    theirs = teacher.deep(teacher.stem(images))
    expected = (
        3 * pkt(student.stem(images), teacher.stem(images))
        + 0.5 * 0.25 * fitnet(mapped, theirs)
        + 2 * LOSSES["dist"].function(said, told, temperature=2.0)
    )
    torch.testing.assert_close(found, expected)
    found.backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert extra.comparisons[1].projections[0].weight.grad is not None


def test_a_memory_holds_the_latest_embeddings_of_the_teacher() -> None:
    student, teacher = Staged(4).train(), Staged(8, seed=1).eval()
    extra = beside("crd", student=student, teacher=teacher)
    remembered = extra.comparisons[0]
    memory = remembered.memory
    assert memory.others.shape == (24, 128)  # half of 48 images
    drawn = memory.others.clone()
    for start in (0, 16):
        seen = looked(
            extra,
            student,
            teacher,
            few().train.images[start : start + 16],
            torch.zeros(16, dtype=torch.int64),
        )
        extra.loss(0, seen)
    latest = F.normalize(remembered.teacher(seen.theirs[EMBEDDING]), dim=1)
    torch.testing.assert_close(memory.others[torch.arange(16, 32) % 24], latest.detach())
    assert not torch.equal(memory.others[8:16], drawn[8:16])


def test_the_centres_of_classes_are_the_mean_features_of_the_teacher() -> None:
    teacher, data = Staged(8, seed=1).eval(), few()
    extra = beside("kd++", student=Staged(4), teacher=teacher)
    with torch.no_grad():
        features = teacher.pool(teacher.deep(teacher.stem(data.train.images))).flatten(1)
    for label in range(4):
        torch.testing.assert_close(
            extra.comparisons[0].centres[label], features[data.train.labels == label].mean(0)
        )


def test_every_loss_but_the_labels_has_its_comparison() -> None:
    assert sorted(COMPARISONS) == sorted(name for name in LOSSES if name != "labels")


@pytest.mark.parametrize("name", [name for name in COMPARISONS if name != "same-channels"])
@pytest.mark.parametrize("teacher", [Staged(8, seed=1), Other()], ids=["like", "foreign"])
def test_a_student_learns_beside_every_loss_and_is_handed_out_alone(name: str, teacher: nn.Module) -> None:
    student = Staged(4)
    weight = {"similarity-preserving": 1.0, "attention": 1.0, "rkd": 1.0, "crd": 0.01}.get(name, 0.1)
    trained = train(student, few(), SCHEDULE, teacher=teacher, losses=[f"{name}={weight}"])
    assert trained.network.state_dict().keys() == student.state_dict().keys()
    assert all(tensor.isfinite().all() for tensor in trained.network.state_dict().values())
    alone = train(student, few(), SCHEDULE, teacher=teacher)
    assert state_of(trained.network) != state_of(alone.network)


@pytest.mark.parametrize("name", ["fitnet", "attention", "pkt", "crd"])
def test_a_program_learns_beside_losses_as_its_network_does(name: str) -> None:
    student, teacher = Staged(4), Staged(8, seed=1)
    program = program_of(student, Plan({}), inputs_of(torch.zeros(1, 3, 8, 8)))
    one, other = (
        train(each, few(), SCHEDULE, teacher=teacher, losses=[f"{name}=0.01"]) for each in (student, program)
    )
    for key, tensor in one.network.state_dict().items():
        # The same operators in single precision; layouts may differ, which costs roundings that training lets grow.
        torch.testing.assert_close(other.network.state_dict()[key], tensor, rtol=1e-3, atol=1e-4)


def test_a_training_beside_losses_goes_on_bit_for_bit(tmp_path: Path) -> None:
    losses = ["fitnet=0.1", "crd=0.01", "pkt, decay=0.5"]
    schedule = replace(SCHEDULE, epochs=3)

    class Killed(Exception):  # noqa: N818
        pass

    def kill(now: object) -> None:
        if getattr(now, "over", False) and getattr(now, "epoch", 0) == 2:
            raise Killed

    given = {"teacher": Staged(8, seed=1), "losses": losses}
    whole = train(Staged(4), few(), schedule, **given)
    with pytest.raises(Killed):
        train(Staged(4), few(), schedule, **given, checkpoints=tmp_path, progress=kill)
    again = train(Staged(4), few(), schedule, **given, checkpoints=tmp_path)
    assert again.resumed_from
    assert state_of(again.network) == state_of(whole.network)
    with pytest.raises(CompressError, match="`losses` differs"):
        train(Staged(4), few(), schedule, teacher=Staged(8, seed=1), losses=["fitnet"], checkpoints=tmp_path)


def test_each_guide_is_compared_by_projections_of_its_own() -> None:
    guides = [Guide("small", Staged(6, seed=2)), Guide("large", Staged(8, seed=1))]
    lesson = Taught(Staged(4), guides, few(), SCHEDULE, FP32, terms=terms_of(["fitnet, layers=deep"]))
    shapes = [tuple(p.shape) for name, p in lesson.decayed if name.startswith("beside")]
    assert shapes == [(12, 8, 1, 1), (16, 8, 1, 1)]


def test_a_compiled_training_says_that_layers_are_looked_at() -> None:
    trained = train(
        Staged(4), few(), replace(SCHEDULE, compile=True), teacher=Staged(8, seed=1), losses=["attention"]
    )
    assert trained.warnings == ("nothing was compiled, because losses read layer outputs",)


@pytest.mark.parametrize(
    ("losses", "changes", "reason"),
    [
        (["pk"], {}, "unknown loss `pk`"),
        (["labels"], {}, "unknown loss `labels`"),
        (["pkt, temperature=3"], {}, "unknown setting of loss `pkt` `temperature`"),
        (["dkd"], {"mix": ("mixup=0.2",)}, "needs one label for each image"),
        (["kd++, layers=deep stem"], {}, "compares 1 layer with the centres of classes, and 2 are named"),
        (["crd, layers=deep stem"], {}, "compares the outputs of 1 layer, and 2 are named"),
        (["drg, layers=deep stem"], {}, "puts a head on 1 layer, and 2 are named"),
        (["kd, layers=deeper"], {}, "the student has no layer `deeper`"),
        (["pkt"], {"batch": 2}, "compares the images of a batch, and a batch has 2"),
        (["fitnet, layers=deeper"], {}, r"the student has no layer `deeper`"),
        (["fitnet, layers=deep/deeper"], {}, r"the teacher has no layer `deeper`"),
        (
            ["same-channels, layers=deep"],
            {},
            "`deep` of the student has 8 channels, expected 16 as in `deep` of the teacher",
        ),
        ([], {"teacher_loss": "none", "teacher_weight": 1.0}, "distil.losses has no loss with a weight"),
        (
            ["pkt=0"],
            {"teacher_loss": "none", "teacher_weight": 1.0},
            "distil.losses has no loss with a weight",
        ),
        (["pkt, start=1"], {"teacher_loss": "none", "teacher_weight": 1.0}, "no loss counts in epoch 0"),
        (["pkt, until=1"], {"teacher_loss": "none", "teacher_weight": 1.0}, "no loss counts in epoch 1"),
        (["pkt"], {"teacher_loss": "nothing"}, "unknown teacher_loss `nothing`"),
    ],
)
def test_what_cannot_be_learnt_is_one_line_before_training(
    losses: list[str], changes: dict[str, object], reason: str
) -> None:
    with pytest.raises(UsageError, match=reason):
        train(Staged(4), few(), replace(SCHEDULE, **changes), teacher=Staged(8), losses=losses)


def test_a_layer_that_is_not_there_lists_candidates_with_their_shapes() -> None:
    with pytest.raises(UsageError) as caught:
        train(Staged(4), few(), SCHEDULE, teacher=Staged(8), losses=["fitnet, layers=deeper"])
    assert "stem [4, 8, 8], deep [8, 4, 4], embedding [8]" in str(caught.value.hint)


def test_losses_without_a_teacher_are_refused() -> None:
    with pytest.raises(UsageError, match="loss `pkt` compares with a teacher, and there is none"):
        train(Staged(4), few(), SCHEDULE, losses=["pkt"])


def test_kd_twice_is_twice_its_weight() -> None:
    """A loss that compares answers, beside the teacher's loss of the schedule."""
    student, teacher = Staged(4).train(), Staged(8, seed=1).eval()
    extra = beside("kd=0.5, temperature=3", student=student, teacher=teacher)
    said, told = torch.randn(16, 4), torch.randn(16, 4)
    found = extra.loss(0, Seen(torch.zeros(0), torch.zeros(16, dtype=torch.int64), said, told, {}, {}))
    torch.testing.assert_close(found, 0.5 * kd(said, told, temperature=3.0))


def test_a_loss_between_answers_at_layers_is_that_of_heads_there() -> None:
    student, teacher = Staged(4).train(), Staged(8, seed=1).eval()
    extra = beside("ofa=2, layers=auto", student=student, teacher=teacher)
    images, labels = torch.randn(16, 3, 8, 8), torch.arange(16) % 4
    seen = looked(extra, student, teacher, images, labels)
    heads = extra.comparisons[0].heads
    answers = [
        head.linear(seen.mine[layer].mean((2, 3)))
        for head, layer in zip(heads, ("stem", "deep"), strict=True)
    ]
    expected = sum(LOSSES["ofa"].function(each, seen.told, labels, temperature=2.0) for each in answers)
    torch.testing.assert_close(extra.loss(0, seen), expected)


def test_heads_of_the_teacher_learn_by_labels_whatever_the_loss_weighs_and_it_does_not_notice() -> None:
    student, teacher = Staged(4).train(), Staged(8, seed=1).eval()
    extra = beside("multi-head=0.5, layers=deep", student=student, teacher=teacher)
    images, labels = torch.randn(16, 3, 8, 8), torch.arange(16) % 4
    seen = looked(extra, student, teacher, images, labels)
    mine = extra.comparisons[0].student[0](seen.mine["deep"])
    theirs = extra.comparisons[0].teacher[0](seen.theirs["deep"])
    expected = 0.5 * multi_head(mine, theirs.detach()) + cross_entropy(theirs, labels)
    found = extra.loss(0, seen)
    torch.testing.assert_close(found, expected)
    found.backward()
    (only_labels,) = torch.autograd.grad(
        cross_entropy(extra.comparisons[0].teacher[0](seen.theirs["deep"]), labels),
        [extra.comparisons[0].teacher[0].linear.weight],
    )
    torch.testing.assert_close(extra.comparisons[0].teacher[0].linear.weight.grad, only_labels)
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_a_student_follows_what_a_head_in_its_middle_says_and_does_not_pull_at_it() -> None:
    student = Staged(4).train()
    extra = beside("drg=3", student=student, teacher=None)
    images, labels = torch.randn(16, 3, 8, 8), torch.arange(16) % 4
    seen = looked(extra, student, None, images, labels)
    middle = extra.comparisons[0].head(seen.mine["stem"])
    expected = 3 * kd(seen.said, middle.detach(), temperature=4.0) + cross_entropy(middle, labels)
    torch.testing.assert_close(extra.loss(0, seen), expected)


def test_the_shape_of_answers_is_compared_with_that_of_the_batch_before() -> None:
    student = Staged(4).train()
    extra = beside("dsr", student=student, teacher=None)
    labels = torch.zeros(16, dtype=torch.int64)
    first, second, third = (torch.randn(count, 4) for count in (16, 16, 8))
    found = [
        extra.loss(0, Seen(torch.zeros(0), labels, said, None, {}, {})) for said in (first, second, third)
    ]
    assert found[0] == 0
    assert found[2] == 0  # of another size
    torch.testing.assert_close(found[1], dsr(second, first))
    torch.testing.assert_close(dsr(second, second.flip(1)), torch.tensor(0.0))


def test_turned_images_come_after_the_plain_ones_and_other_losses_see_the_plain_ones_alone() -> None:
    student, teacher = Staged(4).train(), Staged(8, seed=1).eval()
    images, labels = torch.randn(16, 3, 8, 8), torch.arange(16) % 4
    torch.testing.assert_close(turned(images)[16:32], images.rot90(1, (2, 3)))
    alone = beside("kd", student=student, teacher=teacher)
    extra = beside("kd", "hsakd=1, layers=deep", student=student, teacher=teacher)
    seen = looked(extra, student, teacher, images, labels)
    assert len(seen.said) == 64
    plain = Seen(images, labels, seen.said[:16], seen.told[:16], {}, {})
    both = extra.comparisons[1]
    told, said = both.teacher[0](seen.theirs["deep"]), both.student[0](seen.mine["deep"])
    assert told.shape == (64, 16)  # four turns of four classes
    which = torch.cat([labels + 4 * turn for turn in range(4)])
    expected = (
        alone.loss(0, plain)
        + kd(seen.said, seen.told, temperature=3.0)
        + kd(said, told.detach(), temperature=3.0)
        + cross_entropy(told, which)
    )
    torch.testing.assert_close(extra.loss(0, seen), expected)


def test_of_rows_that_are_wrong_those_of_the_best_rank_are_kept() -> None:
    rows = torch.tensor([[0.9, 0.1, 0.0], [0.5, 0.4, 0.3], [0.9, 0.8, 0.1], [0.0, 0.2, 0.1]])
    right = torch.tensor([0, 1, 2, 2])  # ranks 0, 1, 2, 1
    assert nearly_right(rows, right, 0.0).tolist() == [True, False, False, False]
    assert nearly_right(rows, right, 0.34).tolist() == [True, True, False, False]
    assert nearly_right(rows, right, 1.0).all()


def test_a_judge_learns_to_tell_the_two_apart_and_the_student_to_be_mistaken() -> None:
    student, teacher = Staged(4).train(), Staged(8, seed=1).eval()
    extra = beside("adversarial=1", student=student, teacher=teacher)
    judge = extra.comparisons[0].judge
    optimizer = torch.optim.Adam(judge.parameters(), 0.01)
    said, told = torch.randn(256, 4) * 6, torch.randn(256, 4)
    labels = torch.zeros(256, dtype=torch.int64)
    for _ in range(200):
        optimizer.zero_grad()
        extra.loss(0, Seen(torch.zeros(0), labels, said, told, {}, {})).backward()
        optimizer.step()
    right = [(judge((each / 2).softmax(1)) > 0).float().mean() for each in (told, said)]
    assert right[0] > 0.8
    assert right[1] < 0.2
    given = said.clone().requires_grad_()
    extra.loss(0, Seen(torch.zeros(0), labels, given, told, {}, {})).backward()
    before = judge((said / 2).softmax(1)).mean()
    assert judge(((said - 100 * given.grad) / 2).softmax(1)).mean() > before


def test_changed_images_are_made_harder_for_the_student_while_the_teacher_stays_right() -> None:
    """The maker's gradient is that of (cross-entropy of the teacher − what the student is off)."""
    student, teacher = Staged(4).train(), Staged(8, seed=1).eval().requires_grad_(False)
    extra = beside("tst=1, temperature=3", student=student, teacher=teacher)
    images, labels = torch.randn(16, 3, 8, 8), torch.arange(16) % 4
    seen = looked(extra, student, teacher, images, labels)
    maker = extra.comparisons[0].maker
    torch.manual_seed(5)
    loss = extra.loss(0, seen)
    loss.backward()
    torch.manual_seed(5)
    changed = maker(images)
    assert changed.shape == images.shape
    off = tst(student(changed), teacher(changed), temperature=3.0)
    torch.testing.assert_close(loss, off)
    wanted = cross_entropy(teacher(changed), labels) - off
    for parameter, gradient in zip(
        maker.parameters(),
        torch.autograd.grad(wanted, list(maker.parameters()), retain_graph=True),
        strict=True,
    ):
        torch.testing.assert_close(parameter.grad, gradient)
    weights = [p for p in student.parameters() if p.ndim > 1]
    for weight, gradient in zip(weights, torch.autograd.grad(off, weights), strict=True):
        torch.testing.assert_close(weight.grad, gradient)


ALONE = replace(SCHEDULE, teacher_loss="none", teacher_weight=1.0)


def test_by_losses_beside_alone_neither_labels_nor_answers_count(tmp_path: Path) -> None:
    data = few()
    given = {"teacher": Staged(8, seed=1), "losses": ["pkt, layers=deep"]}
    trained = train(Staged(4), data, ALONE, **given)
    wrong = replace(data, train=replace(data.train, labels=data.train.labels.flip(0)))
    assert state_of(train(Staged(4), wrong, ALONE, **given).network) == state_of(trained.network)
    assert torch.equal(trained.network.head.weight, Staged(4).head.weight)
    assert not torch.equal(trained.network.deep[0].weight, Staged(4).deep[0].weight)


def test_without_answers_the_share_of_the_labels_stays() -> None:
    said, labels, told = torch.randn(8, 4), torch.arange(8) % 4, torch.randn(8, 4)
    found = loss_of(said, labels, told, replace(ALONE, teacher_weight=0.7))
    torch.testing.assert_close(found, 0.3 * F.cross_entropy(said, labels))


def test_a_training_by_losses_alone_goes_on_bit_for_bit(tmp_path: Path) -> None:
    def kill(now: object) -> None:
        if getattr(now, "over", False):
            raise KeyboardInterrupt

    schedule = replace(ALONE, optimizer="adam", learning_rate=0.001)
    given = {"teacher": Staged(8, seed=1), "losses": ["pkt, layers=deep"]}
    whole = train(Staged(4), few(), schedule, **given)
    with pytest.raises(KeyboardInterrupt):
        train(Staged(4), few(), schedule, **given, checkpoints=tmp_path, progress=kill)
    again = train(Staged(4), few(), schedule, **given, checkpoints=tmp_path)
    assert again.resumed_from
    assert state_of(again.network) == state_of(whole.network)


def test_a_narrower_student_is_shown_the_channels_that_are_kept_for_it() -> None:
    student, teacher = Staged(4).train(), Staged(8, seed=1).eval()
    kept = {"stem": (1, 3, 4, 7)}
    extra = Beside(
        terms_of(["same-channels, layers=stem"]), student, teacher, few(), FP32, schedule=SCHEDULE, kept=kept
    )
    images = torch.randn(16, 3, 8, 8)
    found = extra.loss(0, looked(extra, student, teacher, images, torch.arange(16) % 4))
    expected = F.mse_loss(student.stem(images), teacher.stem(images)[:, [1, 3, 4, 7]])
    torch.testing.assert_close(found, expected)


def test_a_loss_that_is_followed_instead_of_kd_has_its_usual_weight() -> None:
    said, labels, told = torch.randn(8, 4), torch.arange(8) % 4, torch.randn(8, 4)
    found = loss_of(said, labels, told, replace(SCHEDULE, teacher_loss="comparative", teacher_weight=1.0))
    torch.testing.assert_close(found, 0.1 * LOSSES["comparative"].function(said, told))
