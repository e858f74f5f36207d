"""The teacher of a run: a network with weights that were trained on the data, and how its class is built.

Four origins: the built-in network, trained on first use and cached; a student folder of an earlier
run; a name with a weights file or published weights; a factory that returns a trained network.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from compressor.artifacts.student import is_student, load_student
from compressor.base import cache
from compressor.base.files import write_atomic
from compressor.data import load_data
from compressor.data.split import Data
from compressor.errors import CompressError, UsageError
from compressor.models.names import BUILTIN, ModelSource, build, builder_of
from compressor.models.weights import PRETRAINED, fetch_pretrained, load_weights
from compressor.pruning.widths.plan import Plan
from compressor.recipe import DataRecipe, ModelRecipe, Recipe
from compressor.recipe.distilling import TEACHER_NONE
from compressor.training import Guide, Progress, Schedule, accuracy, choose_precision, train
from compressor.training.distributed.world import here

RANDOM = "random"
RENDERED = "glyphs"

BUILTIN_SCHEDULE = Schedule(
    epochs=13,
    learning_rate=0.15,
    weight_decay=2e-3,
    warmup_epochs=1.3,
    label_smoothing=0.1,
    test_every=13,
)
"""Schedule of the built-in teacher: strong decay and smoothing give logits that are useful for distillation."""


INGREDIENTS = (
    "models/glyphnet.py",
    "data/augment.py",
    "data/glyphs.py",
    "data/scaling.py",
    "data/split.py",
    "data/in_memory.py",
    "training/distributed/exchange.py",
    "training/lesson.py",
    "training/course.py",
    "training/loop.py",
    "training/batchnorm_statistics.py",
    "training/losses/logits.py",
    "training/losses/float32.py",
    "training/distributed/sync_batchnorm.py",
    "training/optimizers.py",
    "training/distributed/world.py",
    "training/precision.py",
    "training/seeds.py",
    "recipe/optimizer_text.py",
    "recipe/schedule.py",
)
"""The code that determines the built-in teacher's weights: a change in it gives a new cache entry."""


KEPT = "built-in.safetensors"
"""File name of the built-in teacher of a run, in the folder of its checkpoints."""


@dataclass(frozen=True)
class Teacher:
    """A network in evaluation mode, how to build its class, and the cut that was applied already (``done``)."""

    network: nn.Module
    source: ModelSource
    origin: str
    done: Plan = field(default_factory=lambda: Plan({}))
    warning: str | None = None


def check_teacher(model: ModelRecipe) -> None:
    """Raise an error before data is read, if this cannot be a teacher."""
    if is_student(Path(model.name)):
        return
    _refuse_other_folder(Path(model.name))
    builder_of(model.name)
    if model.name != BUILTIN:
        check_weights(model)


WEIGHTS_HINT = (
    f"--weights FILE, `--weights {PRETRAINED}` to download the published ones, or `--weights {RANDOM}`"
)


def check_weights(model: ModelRecipe, hint: str = WEIGHTS_HINT) -> None:
    """Refuse a name without weights: random weights must be requested explicitly. A factory may load its own."""
    has_own = ":" in model.name and not model.name.startswith("timm:")
    if not model.weights and not has_own:
        builder_of(model.name)
        raise UsageError(
            f"`{model.name}` has no weights",
            hint,
        )


def load_teacher(
    recipe: Recipe,
    data: Data,
    *,
    device: torch.device,
    progress: Callable[[str, Progress], None],
    checkpoints: Path | None = None,
    fresh: bool = False,
) -> Teacher:
    """The teacher that the recipe names, ready for this data.

    ``checkpoints`` and ``fresh`` are for the built-in one: the folder to resume its training from, and
    True to train it although it is in the cache.
    """
    if recipe.model.name == BUILTIN and not recipe.model.weights:
        teacher = _trained_builtin(recipe, data, device, progress, checkpoints, fresh)
    else:
        teacher = _named(recipe.model, data, device)
    here().same(teacher.network.state_dict().values())
    outputs = outputs_of(teacher.network, data)
    if outputs != len(data.classes):
        raise UsageError(
            f"the teacher `{recipe.model.name}` has {outputs} outputs, "
            f"the data `{data.name}` {len(data.classes)} classes",
            "the teacher must be trained on this data: give its weights with --weights",
        )
    return teacher


def build_model(model: ModelRecipe, classes: int | None) -> tuple[nn.Module, ModelSource, Plan]:
    """The network that a recipe names, with its weights if it names any; needs no data."""
    path = Path(model.name)
    if is_student(path):
        if model.weights:
            raise UsageError(
                f"`{model.name}` is a student folder and has its own weights", "leave out --weights"
            )
        student = load_student(path, trust=model.trust)
        return student.network, student.source, student.plan
    _refuse_other_folder(path)
    source = ModelSource(model.name, classes)
    network = build(source)
    if model.weights == PRETRAINED:
        fetch_pretrained(network, source)
    elif model.weights not in ("", RANDOM):
        load_weights(network, Path(model.weights))
    return network, source, Plan({})


def _refuse_other_folder(path: Path) -> None:
    if path.is_dir():
        raise UsageError(
            f"folder `{path}` is not a student folder: it needs plan.json and weights.safetensors"
        )


def model_named(text: str, trust: bool) -> ModelRecipe:
    """The network that a recipe names as NAME or NAME=WEIGHTS; a folder may have a `=` in its name."""
    name, sign, weights = (text, "", "") if Path(text).is_dir() else text.partition("=")
    if sign and not (name and weights):
        raise UsageError(f"`{text}` is not NAME=WEIGHTS", "as in resnet50=weights.pt or resnet50=pretrained")
    return ModelRecipe(name, weights, trust)


def load_guide(recipe: Recipe, data: Data, teacher: Teacher, right: float, device: torch.device) -> Guide:
    """The guide: the network that the recipe names as teacher, or the one that is cut.

    ``right`` is the accuracy of the one that is cut. A guide must be better than chance.
    """
    asked = recipe.distil
    if asked.teacher in ("", TEACHER_NONE):
        guide = Guide("teacher", teacher.network, right)
        random = recipe.model.weights == RANDOM or asked.teacher == TEACHER_NONE
    else:
        model = model_named(asked.teacher, recipe.model.trust)
        if not is_student(Path(model.name)):
            check_weights(model, f"as in --teacher {model.name}=FILE or --teacher {model.name}={PRETRAINED}")
        found = _named(model, data, device)
        here().same(found.network.state_dict().values())
        outputs = outputs_of(found.network, data)
        if outputs != len(data.classes):
            raise UsageError(
                f"the teacher `{model.name}` has {outputs} outputs, "
                f"the student of `{recipe.model.name}` {len(data.classes)}",
                "a teacher and its student must have the same classes",
            )
        network = found.network.eval()
        guide = Guide(model.name, network, accuracy(network, data.test, device=device))
        random = model.weights == RANDOM
    assert guide.accuracy is not None
    chance, tested = 1 / len(data.classes), len(data.test)
    if not random and guide.accuracy <= chance + 2 * math.sqrt(chance * (1 - chance) / tested):
        raise UsageError(
            f"`{asked.teacher or recipe.model.name}` is right on {guide.accuracy:.1%} of `{data.name}`, "
            f"which is chance ({chance:.1%}): there is nothing to learn from it",
            "give its weights (--weights FILE, --teacher NAME=FILE), or the data and the scaling of its own training",
        )
    return guide


def _named(model: ModelRecipe, data: Data, device: torch.device) -> Teacher:
    """A teacher that was trained outside this run."""
    classes = None if model.weights == PRETRAINED else len(data.classes)
    network, source, done = build_model(model, classes)
    origin = {"": "its own weights", RANDOM: "random weights"}.get(model.weights, model.weights)
    warning = "the teacher has random weights: accuracies mean nothing" if model.weights == RANDOM else None
    return Teacher(network.to(device), source, origin, done, warning)


def _trained_builtin(
    recipe: Recipe,
    data: Data,
    device: torch.device,
    progress: Callable[[str, Progress], None],
    checkpoints: Path | None,
    fresh: bool,
) -> Teacher:
    """The built-in network: from the cache, or trained now and cached."""
    source = ModelSource(BUILTIN, len(data.classes))
    ingredients = _ingredients(
        replace(recipe.data, unlabelled="", teacher_augment=""), recipe.seed, device, source
    )
    key = cache.key_of(ingredients)
    # Cache only for the rendered data: the content of a folder or a factory may change under the same name.
    cached = recipe.data.name == RENDERED
    # All processes train it, or none: the files of the first process decide.
    stored, origin = here().from_first(lambda: _stored(key if cached and not fresh else None, checkpoints))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(recipe.seed)
        network = build(source)
    outputs_of(network, data)
    if not data.train.labelled:  # only the student learns from unlabelled images; its teacher needs labels
        data = load_data(replace(recipe.data, unlabelled="", teacher_augment=""), recipe.seed)
    if stored is not None:
        network.load_state_dict(stored)
        return Teacher(network.to(device), source, origin)
    trained = train(
        network,
        data,
        BUILTIN_SCHEDULE,
        seed=recipe.seed,
        device=device,
        checkpoints=checkpoints,
        progress=partial(progress, "teacher"),
    )
    state = {name: tensor.cpu() for name, tensor in trained.network.state_dict().items()}
    failure = cache.write_tensors("teachers", key, state, ingredients) if cached and here().first else None
    warning = f"the teacher was not cached: {failure}" if failure else None
    return Teacher(trained.network, source, "trained just now", warning=warning)


def keep_teacher(recipe: Recipe, teacher: Teacher, checkpoints: Path) -> None:
    """Store the built-in teacher with the checkpoints of the networks that it teaches.

    With another number of threads the cache has a different teacher, equally good, but not the one they began with.
    """
    path = checkpoints / KEPT
    if recipe.model.name == BUILTIN and not recipe.model.weights and not path.exists():
        state = teacher.network.state_dict()
        write_atomic(path, save({name: tensor.cpu().contiguous() for name, tensor in state.items()}))


def _stored(key: str | None, checkpoints: Path | None) -> tuple[dict[str, Tensor] | None, str]:
    """The built-in teacher stored with this run, or the one in the cache; and its origin."""
    path = checkpoints / KEPT if checkpoints is not None else None
    if path is None or not path.exists():
        return cache.read_tensors("teachers", key) if key else None, f"cache entry {key}"
    try:
        return load(path.read_bytes()), "kept with this run"
    except (OSError, SafetensorError) as error:
        raise CompressError(f"`{path}` is damaged: {error}", "choose another --out") from error


def _ingredients(data: DataRecipe, seed: int, device: torch.device, source: ModelSource) -> dict[str, object]:
    """Everything that determines the built-in teacher's weights, including the code that trains it."""
    folder = Path(__file__).parents[1]
    code = hashlib.sha256()
    for part in INGREDIENTS:
        code.update((folder / part).read_bytes())
    return {
        "model": source.to_dict(),
        "data": asdict(data),
        "schedule": asdict(BUILTIN_SCHEDULE),
        "seed": seed,
        "device": device.type,
        "precision": choose_precision(BUILTIN_SCHEDULE.precision, device).name,
        "threads": torch.get_num_threads(),
        "torch": version("torch"),
        "pillow": version("pillow"),
        "code": code.hexdigest(),
    }


def outputs_of(network: nn.Module, data: Data, whose: str = "teacher") -> int:
    """The number of outputs of the network, for an image of this data."""
    device = next(network.parameters()).device
    image = torch.zeros(1, *data.shape, device=device)
    try:
        with torch.no_grad():
            logits = network(image)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CompressError(
            f"the {whose} does not run on images of shape {data.shape}: {reason}",
            "set the size with --size; three means in data.normalise make grey images colour",
        ) from error
    if not isinstance(logits, torch.Tensor) or logits.dim() != 2:
        raise CompressError(
            f"the {whose} gives a {type(logits).__name__}, expected logits of shape (batch, classes)",
            "wrap it in a factory that returns the logits alone",
        )
    return int(logits.shape[1])
