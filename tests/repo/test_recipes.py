"""Recipes are valid and documented, and their networks and settings are the published ones."""

import math
import os

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import re
from pathlib import Path

import keras
import parameter_table
import pytest
import yaml
from project import Project

from pipeline import config
from pipeline.backbones import build
from pipeline.commands import recipe
from pipeline.schema import Backbone, DenseHead, Params
from pipeline.training import loop, network_split

ROOT = Path(__file__).parents[2]
NAMES = sorted(path.stem for path in (ROOT / "recipes").glob("*.yaml") if path.stem != "base")
PAGE = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")


# Weights of the loaded backbone, of the head, and of extractor and head; then how the head is
# trained: optimizer, learning rate, epochs, batch size.
PUBLISHED = {
    "vgg16-predictions-linear": (138_357_544, 2_002, 138_359_546, "rmsprop", 0.1, 3, 64),
    "vgg16-last-layer": (138_357_544, 8_194, 134_268_738, "adam", 0.001, 1, 64),
    "vgg16-features-dense": (14_714_688, 2_097_665, 16_812_353, "rmsprop", 2e-5, 30, 16),
    # Its head is trained with the rest.
    "convnet": (240_832, 3_212_289, 3_453_121, "adam", 0.001, 0, 32),
    "convnet-augmented": (240_832, 3_212_289, 3_453_121, "adam", 0.001, 0, 32),
    "vgg16-frozen-augmented": (14_714_688, 2_097_665, 16_812_353, "rmsprop", 2e-5, 30, 20),
    "vgg16-fine-tune": (14_714_688, 2_097_665, 16_812_353, "rmsprop", 2e-5, 30, 20),
    "vgg16-dense": (14_714_688, 2_529_302, 17_243_990, "adamax", 0.001, 5, 30),
    "vgg19-dense": (20_024_384, 2_529_302, 22_553_686, "adamax", 0.001, 5, 30),
    "resnet50-dense": (23_587_712, 10_055_702, 33_643_414, "adamax", 0.001, 5, 30),
}
# Weights that are trained; optimizer, learning rate, epochs, steps per epoch, batch size.
FINE_TUNED = {
    "convnet": (3_453_121, "rmsprop", 1e-4, 30, 100, 20),
    "convnet-augmented": (3_453_121, "rmsprop", 1e-4, 100, 100, 32),
    # The three convolutions of block 5, and the head.
    "vgg16-fine-tune": (7_079_424 + 2_097_665, "rmsprop", 1e-5, 100, 100, 20),
}


def read(name: str) -> Params:
    return config.check(recipe.read(name))


def dense_head(name: str) -> DenseHead:
    head = read(name).train_head
    assert isinstance(head, DenseHead)
    return head


def networks(name: str) -> tuple[keras.Model, keras.Model, keras.Model]:
    """Return backbone, extractor and head of a recipe for two classes."""
    params, section = read(name), dense_head(name)
    ((backbone, settings),) = params.backbones.items()
    assert isinstance(settings, Backbone)
    base = build.network(
        *(backbone, params.resize.size, settings.include_top, None),
        logits=settings.pooling in build.PREDICTIONS,
    )
    extractor = build.extractor(base, backbone, settings.layer, settings.pooling)
    head = loop.dense_head(
        *(extractor.output_shape[-1], section.hidden, 1 if section.output == "sigmoid" else 2),
        input_dropout=section.input_dropout,
        dropout=section.dropout,
        batch_norm=section.batch_norm,
        seed=0,
    )
    return base, extractor, head


def test_the_committed_parameters_are_the_recipe_of_the_sample() -> None:
    assert (ROOT / "params.yaml").read_text(encoding="utf-8") == recipe.render("sample")


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_is_valid_and_holds_no_value_of_the_base(name: str) -> None:
    read(name)
    base = config.load(ROOT / "recipes" / "base.yaml")
    for section, values in (config.load(ROOT / "recipes" / f"{name}.yaml") or {}).items():
        same = values == base[section]
        if section not in recipe.REPLACED:
            same = any(values[key] == base[section].get(key) for key in values)
        assert not same, section


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_says_what_it_is_and_the_docs_have_its_row_and_numbers(name: str) -> None:
    text = "\n".join(recipe.header(name))
    assert text.endswith(f"Command: make recipe NAME={name} && make repro")
    assert name == "sample" or re.search("(?m)^(Measured|Not measured)", text)
    assert PAGE.count(f"| [`{name}`](../recipes/{name}.yaml) |") == 1
    numbers = re.findall(r"\d\d?\.\d\d %|0\.\d{3,4}\b|\d\d\.\d\d to \d\d\.\d\d", text)
    assert [number for number in numbers if number not in PAGE] == []


def test_the_table_of_parameters_is_the_one_of_the_schema() -> None:
    assert parameter_table.PAGE.read_text(encoding="utf-8") == parameter_table.page()


@pytest.mark.parametrize("name", PUBLISHED)
def test_networks_and_training_of_heads_are_the_published_ones(name: str) -> None:
    base, extractor, head = networks(name)
    of_head = loop.head_arrays(head).parameters
    weights = base.count_params(), of_head, extractor.count_params() + head.count_params()
    section = dense_head(name)
    training = section.optimizer, section.learning_rate, section.epochs, section.batch_size
    assert (*weights, *training) == PUBLISHED[name]


@pytest.mark.parametrize("name", FINE_TUNED)
def test_fine_tuning_is_the_published_one(name: str) -> None:
    _, extractor, head = networks(name)
    section = read(name).fine_tune
    (backbone,) = read(name).backbones.values()
    assert section is not None
    assert backbone.unfreeze_from is not None
    build.unfreeze_from(extractor, backbone.unfreeze_from)
    model = network_split.join([extractor], head, extractor.input_shape[1:])
    weights = sum(math.prod(weight.shape) for weight in model.trainable_weights)
    length = section.epochs, section.steps_per_epoch, section.batch_size
    assert (weights, section.optimizer, section.learning_rate, *length) == FINE_TUNED[name]


def test_augmentation_is_the_published_one() -> None:
    moves = {"rotation": 40, "shift": 0.2, "shear": 0.2, "zoom": 0.2, "flip": True}
    augmented = recipe.read("convnet-augmented")["fine_tune"]["augment"]
    assert augmented == moves | {"brightness": 0}
    assert recipe.read("vgg16-frozen-augmented")["extract"]["augment"] == moves | {"seed": 0}
    assert "augment" not in recipe.read("convnet")["fine_tune"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["x$(touch ran)", "../../../mine"])
def test_a_backbone_named_by_a_stranger_runs_and_removes_nothing(name: str, tmp_path: Path) -> None:
    """Parameters may come from strangers; DVC puts names of backbones into paths."""
    project = Project.copy_of_this(tmp_path / "strange")
    mine = project.folder.parent / "mine.weights.h5"
    mine.write_text("mine")
    backbone = yaml.safe_load(project.read("params.yaml"))["backbones"]["convnet"]
    project.change({"backbones": {name: backbone}})
    printed = project.run("dvc", "repro", "fetch_weights", passes=False)
    assert f"backbones: expected a network name of letters, digits and _, got {name!r}" in printed
    assert "Traceback" not in printed
    assert not (project.folder / "ran").exists()
    assert mine.read_text() == "mine"


def test_no_command_of_dvc_takes_text_from_the_parameters() -> None:
    """DVC puts what replaces `${...}` into the text that a shell reads."""
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    commands = {name: stage.get("do", stage)["cmd"] for name, stage in stages.items()}
    assert [name for name, text in commands.items() if "${" in text] == []
