"""Each recipe is a whole params file whose networks are those that were published."""

import math
import os

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from pathlib import Path
from typing import NamedTuple

import keras
import pytest

from pipeline import config as parameters
from pipeline.backbones import build
from pipeline.training import loop, network_split
from pipeline.training.head import Head

RECIPES = Path(__file__).parent.parent / "recipes"
NAMES = sorted(path.stem for path in RECIPES.glob("*.yaml"))


class Counts(NamedTuple):
    """Weights of the backbone as it is loaded, of the head, and of both up to the features."""

    backbone: int
    head: int
    whole: int


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


def read(name: str) -> parameters.Params:
    return parameters.read(RECIPES / f"{name}.yaml")


def networks(name: str) -> tuple[keras.Model, keras.Model, keras.Model]:
    """The backbone, its extractor and the head of a recipe for two classes."""
    params = read(name)
    (only,) = params.train_head.backbones
    top, pooling = params.fetch_weights[only].include_top, params.extract.pooling
    base = build.network(only, params.resize.size, top, None, logits=pooling in build.PREDICTIONS)
    extractor = build.extractor(base, only, params.extract.layer, pooling)
    dense = params.train_head.dense
    head = loop.dense_head(
        extractor.output_shape[-1],
        dense.hidden,
        1 if dense.output == "sigmoid" else 2,
        input_dropout=dense.input_dropout,
        dropout=dense.dropout,
        batch_norm=dense.batch_norm,
        seed=0,
    )
    return base, extractor, head


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_is_a_whole_params_file(name: str) -> None:
    read(name)


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_has_a_row_in_the_table_of_recipes(name: str) -> None:
    assert f"| [`{name}`]({name}.yaml) |" in (RECIPES / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_networks_have_as_many_weights_as_the_published_ones(name: str) -> None:
    base, extractor, head = networks(name)
    counts = base.count_params(), head.count_params(), extractor.count_params()
    assert (*counts[:2], counts[2] + counts[1]) == PUBLISHED[name]
    assert loop.head_arrays(head).parameters == PUBLISHED[name].head


@pytest.mark.parametrize("name", TRAINABLE)
def test_as_many_weights_are_tuned_as_were_published(name: str) -> None:
    _, extractor, head = networks(name)
    (layer,) = read(name).fine_tune.layers()
    assert layer is not None
    build.unfreeze_from(extractor, layer)
    model = network_split.whole([extractor], head, extractor.input_shape[1:])
    assert sum(math.prod(weight.shape) for weight in model.trainable_weights) == TRAINABLE[name]


def test_the_settings_are_the_published_ones() -> None:
    params = {name: read(name) for name in PUBLISHED}
    dense = {name: found.train_head.dense for name, found in params.items()}
    told = {
        name: (found.optimizer, found.learning_rate, found.epochs, found.batch_size)
        for name, found in dense.items()
    }
    assert told == {
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
    tuned = {
        name: (
            *(found.optimizer, found.learning_rate),
            *(found.epochs, found.steps_per_epoch, found.batch_size),
        )
        for name, found in ((name, params[name].fine_tune) for name in TRAINABLE)
    }
    assert tuned == {
        "convnet": ("rmsprop", 1e-4, 30, 100, 20),
        "convnet-augmented": ("rmsprop", 1e-4, 100, 100, 32),
        "vgg16-fine-tune": ("rmsprop", 1e-5, 100, 100, 20),
    }
    augment = params["convnet-augmented"].fine_tune.augment
    views = params["vgg16-frozen-augmented"].extract.augment
    for moved in (augment, views):
        found = (moved.rotation, moved.shift, moved.shear, moved.zoom, moved.flip)
        assert found == (40, 0.2, 0.2, 0.2, True)
    assert params["convnet"].fine_tune.augment.active() == []


def test_a_sigmoid_head_counts_one_output() -> None:
    head = loop.dense_head(4, [3], 1, input_dropout=0.0, dropout=0.0, seed=0)
    arrays: Head = loop.head_arrays(head)
    assert [bias.shape for bias in arrays.biases] == [(3,), (1,)]
