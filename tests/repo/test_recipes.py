"""Recipes are valid and documented, and their networks and settings are the published ones."""

import math
import os

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import re
from pathlib import Path
from typing import NamedTuple

import keras
import parameter_table
import pytest
import yaml
from project import Project

from pipeline import config
from pipeline.backbones import build
from pipeline.commands import recipe
from pipeline.schema import DenseHead, Params
from pipeline.training import loop, network_split

ROOT = Path(__file__).parents[2]
NAMES = sorted(path.stem for path in (ROOT / "recipes").glob("*.yaml") if path.stem != "base")
PAGE = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")


class Counts(NamedTuple):
    """Number of weights of the loaded backbone, of the head, and of extractor and head."""

    backbone: int
    head: int
    network: int


PUBLISHED = {
    "vgg16-predictions-linear": Counts(138_357_544, 2_002, 138_357_544 + 2_002),
    "vgg16-last-layer": Counts(138_357_544, 8_194, 134_260_544 + 8_194),
    "vgg16-features-dense": Counts(14_714_688, 2_097_665, 16_812_353),
    "convnet": Counts(240_832, 3_212_289, 3_453_121),
    "convnet-augmented": Counts(240_832, 3_212_289, 3_453_121),
    "vgg16-frozen-augmented": Counts(14_714_688, 2_097_665, 16_812_353),
    "vgg16-fine-tune": Counts(14_714_688, 2_097_665, 16_812_353),
    "vgg16-dense": Counts(14_714_688, 2_529_302, 17_243_990),
    "vgg19-dense": Counts(20_024_384, 2_529_302, 22_553_686),
    "resnet50-dense": Counts(23_587_712, 10_055_702, 33_643_414),
}
TRAINABLE = {  # while it is tuned
    "convnet": 3_453_121,
    "convnet-augmented": 3_453_121,
    "vgg16-fine-tune": 7_079_424 + 2_097_665,  # the three convolutions of block 5, and the head
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
    pooling = settings.pooling
    base = build.network(
        *(backbone, params.resize.size, settings.include_top, None),
        logits=pooling in build.PREDICTIONS,
    )
    extractor = build.extractor(base, backbone, settings.layer, pooling)
    head = loop.dense_head(
        extractor.output_shape[-1],
        section.hidden,
        1 if section.output == "sigmoid" else 2,
        input_dropout=section.input_dropout,
        dropout=section.dropout,
        batch_norm=section.batch_norm,
        seed=0,
    )
    return base, extractor, head


def test_the_committed_parameters_are_the_recipe_of_the_sample() -> None:
    assert (ROOT / "params.yaml").read_text(encoding="utf-8") == recipe.render("sample")


@pytest.mark.parametrize("name", ["base", *NAMES])
def test_a_recipe_is_valid_and_holds_no_value_of_the_base(name: str) -> None:
    content = config.load(ROOT / "recipes" / f"{name}.yaml") or {}
    if name == "base":
        config.check(content)
        return
    read(name)
    base = config.load(ROOT / "recipes" / "base.yaml")
    for section, values in content.items():
        same = values == base[section]
        if section not in recipe.REPLACED:
            same = any(values[key] == base[section].get(key) for key in values)
        assert not same, section


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_says_what_it_is_and_has_a_row_in_the_docs(name: str) -> None:
    text = "\n".join(recipe.header(name))
    assert text.endswith(f"Command: make recipe NAME={name} && make repro")
    assert name == "sample" or re.search("(?m)^(Measured|Not measured)", text)
    assert PAGE.count(f"| [`{name}`](../recipes/{name}.yaml) |") == 1


@pytest.mark.parametrize("name", NAMES)
def test_numbers_in_a_recipe_are_those_of_the_docs(name: str) -> None:
    text = " ".join(recipe.header(name))
    numbers = re.findall(r"\d\d?\.\d\d %|0\.\d{3,4}\b|\d\d\.\d\d to \d\d\.\d\d", text)
    assert [number for number in numbers if number not in PAGE] == []


def test_the_table_of_parameters_is_the_one_of_the_schema() -> None:
    assert parameter_table.PAGE.read_text(encoding="utf-8") == parameter_table.page()


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_networks_have_as_many_weights_as_the_published_ones(name: str) -> None:
    base, extractor, head = networks(name)
    counts = base.count_params(), head.count_params(), extractor.count_params()
    assert (*counts[:2], counts[2] + counts[1]) == PUBLISHED[name]
    assert loop.head_arrays(head).parameters == PUBLISHED[name].head


@pytest.mark.parametrize("name", TRAINABLE)
def test_fine_tuning_trains_as_many_weights_as_were_published(name: str) -> None:
    _, extractor, head = networks(name)
    (backbone,) = read(name).backbones.values()
    assert backbone.unfreeze_from is not None
    build.unfreeze_from(extractor, backbone.unfreeze_from)
    model = network_split.whole([extractor], head, extractor.input_shape[1:])
    assert sum(math.prod(weight.shape) for weight in model.trainable_weights) == TRAINABLE[name]


def test_the_settings_are_the_published_ones() -> None:
    heads = {name: dense_head(name) for name in PUBLISHED}
    trained = {
        name: (head.optimizer, head.learning_rate, head.epochs, head.batch_size)
        for name, head in heads.items()
    }
    assert trained == {
        "vgg16-predictions-linear": ("rmsprop", 0.1, 3, 64),
        "vgg16-last-layer": ("adam", 0.001, 1, 64),
        "vgg16-features-dense": ("rmsprop", 2e-5, 30, 16),
        "convnet": ("adam", 0.001, 0, 32),  # the head is trained with the rest
        "convnet-augmented": ("adam", 0.001, 0, 32),
        "vgg16-frozen-augmented": ("rmsprop", 2e-5, 30, 20),
        "vgg16-fine-tune": ("rmsprop", 2e-5, 30, 20),
        "vgg16-dense": ("adamax", 0.001, 5, 30),
        "vgg19-dense": ("adamax", 0.001, 5, 30),
        "resnet50-dense": ("adamax", 0.001, 5, 30),
    }
    tuned = {}
    for name in TRAINABLE:
        section = read(name).fine_tune
        assert section is not None
        length = (section.epochs, section.steps_per_epoch, section.batch_size)
        tuned[name] = (section.optimizer, section.learning_rate, *length)
    assert tuned == {
        "convnet": ("rmsprop", 1e-4, 30, 100, 20),
        "convnet-augmented": ("rmsprop", 1e-4, 100, 100, 32),
        "vgg16-fine-tune": ("rmsprop", 1e-5, 100, 100, 20),
    }
    moves = {"rotation": 40, "shift": 0.2, "shear": 0.2, "zoom": 0.2, "flip": True}
    augmented = recipe.read("convnet-augmented")["fine_tune"]["augment"]
    assert augmented == moves | {"brightness": 0}
    assert recipe.read("vgg16-frozen-augmented")["extract"]["augment"] == moves | {"seed": 0}
    assert "augment" not in recipe.read("convnet")["fine_tune"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["x$(touch ran)", "../../../mine"])
def test_the_name_of_a_backbone_runs_no_command_and_removes_no_file(
    name: str, tmp_path: Path
) -> None:
    """Parameters may come from strangers; DVC puts names of backbones into paths."""
    project = Project.copy_of_this(tmp_path / "strange")
    mine = project.folder.parent / "mine.weights.h5"
    mine.write_text("mine")
    backbone = yaml.safe_load(project.read("params.yaml"))["backbones"]["convnet"]
    project.change({"backbones": {name: backbone}})
    printed = project.run("dvc", "repro", "fetch_weights", passes=False)
    assert f"backbones: expected a network name of letters, digits and _, got {name!r}" in printed
    assert "failed to reproduce 'code'" in printed
    assert "Traceback" not in printed
    assert not (project.folder / "ran").exists()
    assert mine.read_text() == "mine"


def test_no_command_of_dvc_takes_text_from_the_parameters() -> None:
    """DVC puts what replaces `${...}` into the text that a shell reads."""
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    commands = {name: stage.get("do", stage)["cmd"] for name, stage in stages.items()}
    assert [name for name, text in commands.items() if "${" in text] == []
