"""The schema accepts what plays together; bad_params.py has what it refuses."""

from typing import Any

import pytest
from bad_params import change

from pipeline import config
from pipeline.schema import Params
from pipeline.schema_values import show

TOP = {"weights": "imagenet", "include_top": True, "preprocessing": "backbone"}

MOVES = {"rotation": 0, "shift": 0, "shear": 0, "zoom": 0}


def check(params: dict[str, Any], changes: dict[str, Any]) -> Params:
    for key, value in changes.items():
        change(params, key, value)
    return config.check(params)


@pytest.mark.parametrize("pooling", ["predictions", "log_predictions"])
def test_predictions_are_features_of_a_backbone_with_its_classifier(
    params: dict[str, Any], pooling: str
) -> None:
    checked = check(params, {"backbones.MobileNet": TOP | {"pooling": pooling}})
    assert checked.backbones["MobileNet"].pooling == pooling


def test_keys_that_weights_do_not_need_may_be_null(params: dict[str, Any]) -> None:
    weights = TOP | {"pooling": "avg", "path": None, "sha256": None, "seed": None}
    assert check(params, {"backbones.VGG16": weights}).backbones["VGG16"].sha256 is None


def test_fewer_views_may_predict_than_train(params: dict[str, Any]) -> None:
    augment = MOVES | {"flip": True, "seed": 3}
    changes = {"extract.views": 64, "extract.augment": augment, "predict.views": 1}
    checked = check(params, changes)
    assert (checked.extract.views, checked.predict.views) == (64, 1)
    assert checked.extract.changes() == (MOVES | {"flip": True}, 3)


def test_two_views_need_no_changes(params: dict[str, Any]) -> None:
    assert check(params, {}).extract.changes() == (MOVES | {"flip": False}, 0)


def test_a_backbone_may_stay_frozen_beside_another(params: dict[str, Any]) -> None:
    frozen = {**params["backbones"]["convnet"], "unfreeze_from": None}
    changes = {"backbones.gabor": frozen, "fine_tune.augment": None, "fine_tune.cache_frozen": True}
    layers = [backbone.unfreeze_from for backbone in check(params, changes).backbones.values()]
    assert layers == ["conv1", None]


def test_bfloat16_needs_an_instruction_set_that_can_compute_it(params: dict[str, Any]) -> None:
    changes = {"extract.precision": "bfloat16", "compute.instruction_set": "AVX512_CORE"}
    assert check(params, changes).extract.precision == "bfloat16"


def test_only_changes_that_are_switched_on_are_active(params: dict[str, Any]) -> None:
    tune = check(params, {"fine_tune.augment.zoom": 0.1}).fine_tune
    assert tune is not None
    assert tune.augment is not None
    assert tune.augment.active() == ["zoom", "flip"]


def test_a_value_is_shown_short() -> None:
    assert show("a" * 1000) == f"'{'a' * 27}...{'a' * 28}'"
    assert show(10**5000) == "a number of more than 4,300 digits"
