"""The committed parameters are valid; every fault in others is told as one sentence."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from bad_params import ABSENT, change

from pipeline import config as parameters
from pipeline.commands import check as checking
from pipeline.runtime import machine
from pipeline.runtime.errors import UserError
from pipeline.runtime.machine import processors

ROOT = Path(__file__).parents[1]
COMMITTED = ROOT / "params.yaml"
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))


def refusal(text: str) -> str:
    Path("params.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as told:
        parameters.read()
    return str(told.value)


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)


def test_the_committed_parameters_are_valid() -> None:
    read = parameters.read(COMMITTED)
    assert read.data.train == "data/sample/train.zip"
    assert read.data.classes is None
    assert read.split.valid == 0.15
    assert read.extract.backbones == ["convnet"]
    assert read.fetch_weights["convnet"].seed == 0
    assert (read.extract.views, read.predict.views) == (2, 2)
    assert (read.extract.engine, read.extract.precision) == ("keras", "float32")
    assert read.extract.augment.rotation == 15
    assert read.fine_tune.augment.flip is True


def test_the_committed_parameters_are_the_recipe_of_the_sample() -> None:
    assert COMMITTED.read_bytes() == (ROOT / "recipes" / "sample.yaml").read_bytes()


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_is_valid(recipe: Path) -> None:
    parameters.read(recipe)


@pytest.mark.parametrize("path", [COMMITTED, *RECIPES], ids=lambda path: path.stem)
def test_each_value_has_a_comment_on_its_line(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    valued = [line for line in text.splitlines() if re.match(r" *\w+: *[^ #]", line)]
    assert len(valued) > 40
    assert [line for line in valued if not re.search(r" # \S", line)] == []
    # The reader above misses nothing: as many values stand in the parsed file.
    assert len(valued) == leaves(yaml.safe_load(text))


def leaves(content: object) -> int:
    return sum(map(leaves, content.values())) if isinstance(content, dict) else 1


def test_the_parameters_cannot_be_changed_once_read() -> None:
    with pytest.raises(ValueError, match="frozen"):
        parameters.read(COMMITTED).split.seed = 1


@pytest.mark.parametrize("text", ["1e-05", "1E-5", "1e-5", "1.0e-05", "0.00001"])
def test_a_number_in_scientific_notation_is_a_float(elsewhere: None, text: str) -> None:
    committed = COMMITTED.read_text(encoding="utf-8")
    written = committed.replace("learning_rate: 0.0005", f"learning_rate: {text}")
    assert written != committed
    Path("params.yaml").write_text(written, encoding="utf-8")
    assert parameters.read().fine_tune.learning_rate == 1e-5


def test_a_whole_number_serves_as_a_float(write_params: Callable[..., None]) -> None:
    write_params(train_head={"logistic": {"inverse_regularization": 1, "max_iterations": 5}})
    strength = parameters.read().train_head.logistic.inverse_regularization
    assert (strength, type(strength)) == (1.0, float)


def test_keys_that_a_source_of_weights_does_not_need_may_be_null(
    write_params: Callable[..., None],
) -> None:
    weights = {"source": "imagenet", "include_top": True, "path": None, "sha256": None}
    write_params(fetch_weights={"convnet": weights})
    assert parameters.read().fetch_weights["convnet"].sha256 is None


def with_predictions(params: dict[str, Any], pooling: str) -> None:
    """Another backbone, with its classifier, whose predictions are the features."""
    change(params, "extract.backbones", ["MobileNet"])
    weights = {"source": "random", "seed": 0, "include_top": True}
    change(params, "fetch_weights.MobileNet", weights)
    change(params, "train_head.backbones", ["MobileNet"])
    change(params, "extract.pooling", pooling)


@pytest.mark.parametrize("pooling", ["predictions", "log_predictions"])
def test_predictions_are_features_of_a_backbone_with_its_classifier(
    elsewhere: None, params: dict[str, Any], pooling: str
) -> None:
    with_predictions(params, pooling)
    Path("params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    assert parameters.read().extract.pooling == pooling
    change(params, "extract.layer", "conv_pw_13")
    assert refusal(yaml.safe_dump(params)) == (
        f"params.yaml: extract.layer: expected null, as extract.pooling is {pooling!r}, "
        "got 'conv_pw_13'; change one of them"
    )


def test_each_backbone_needs_its_classifier_for_predictions(
    elsewhere: None, params: dict[str, Any]
) -> None:
    with_predictions(params, "log_predictions")
    change(params, "extract.backbones", ["MobileNet", "convnet"])
    assert refusal(yaml.safe_dump(params)) == (
        "params.yaml: fetch_weights.convnet.include_top: expected true, as extract.pooling is "
        "'log_predictions', got false; change one of them"
    )


def test_fewer_views_may_predict_than_train(write_params: Callable[..., None]) -> None:
    write_params(extract={"views": 64}, predict={"views": 1})
    read = parameters.read()
    assert (read.extract.views, read.predict.views) == (64, 1)


def test_a_backbone_may_stay_frozen_beside_another_and_a_list_of_nothing_is_null(
    write_params: Callable[..., None],
) -> None:
    for given, layers in (([None, "a"], [None, "a"]), ([None, None], []), (None, []), ("a", ["a"])):
        write_params(fine_tune={"unfreeze_from": given, "epochs": 0})
        assert parameters.read().fine_tune.layers() == layers


def test_unfreeze_from_may_be_null_without_epochs(write_params: Callable[..., None]) -> None:
    write_params(fine_tune={"unfreeze_from": None, "epochs": 0})
    assert parameters.read().fine_tune.unfreeze_from is None


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "params.yaml: expected a section of keys, got None; change it"),
        ("- a\n", "params.yaml: expected a section of keys, got ['a']; change it"),
        (
            "data: [\n",
            "params.yaml: expected YAML, got 'while parsing a flow node expected the node content, "
            "but found \\'<stream end>\\' in \"<unicode string>\", line 2, column 1: ^'; "
            "correct that line",
        ),
    ],
    ids=["an empty file", "a list", "not YAML"],
)
def test_a_file_without_sections_is_refused(elsewhere: None, text: str, sentence: str) -> None:
    assert refusal(text) == sentence


def test_bytes_that_are_no_text_are_refused(elsewhere: None) -> None:
    Path("params.yaml").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(UserError) as told:
        parameters.read()
    assert str(told.value) == (
        "params.yaml: expected YAML, got \"'utf-8' codec can't decode byte 0xff in position 0: "
        'invalid start byte"; correct that line'
    )


def test_no_file_says_how_to_get_one(elsewhere: None) -> None:
    with pytest.raises(UserError) as told:
        parameters.read()
    assert str(told.value) == (
        "params.yaml: expected the parameters, got no such file; start with "
        "`cp recipes/sample.yaml params.yaml` in the project's folder"
    )


def test_the_command_tells_all_faults_one_a_line_and_exits_1(
    elsewhere: None, params: dict[str, Any], tmp_path: Path
) -> None:
    for key, value in [("resize.siez", 1), ("split.seed", ABSENT), ("resize.size", "64")]:
        change(params, key, value)
    Path("params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    run = check(tmp_path)
    assert run.returncode == 1
    assert run.stdout == ""
    assert run.stderr.splitlines() == [
        "error: params.yaml: split.seed: expected this key, got nothing; "
        "recipes/ holds complete files",
        "error: params.yaml: resize.size: expected a whole number, got '64'; change it",
        "error: params.yaml: resize.siez: expected one of size, fit, interpolation, got an unknown "
        "key; did you mean 'size'?",
    ]


def test_the_command_says_nothing_of_parameters_and_inputs_that_are_there() -> None:
    run = check(ROOT)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


def test_the_command_names_each_file_that_is_missing(
    elsewhere: None, params: dict[str, Any], tmp_path: Path
) -> None:
    change(params, "data.test", "raw/test.zip")
    weights = {"source": "file", "path": "w.h5", "sha256": "0" * 64, "include_top": False}
    change(params, "fetch_weights.convnet", weights)
    change(params, "compute.threads", 10_000)
    Path("params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    Path(params["data"]["train"]).parent.mkdir(parents=True)
    Path(params["data"]["train"]).touch()
    run = check(tmp_path)
    assert (run.returncode, run.stdout) == (1, "")
    remedy = "put it there or correct the path"
    assert run.stderr.splitlines() == [
        "error: params.yaml: data.test: expected a file or folder, got nothing at "
        f"'raw/test.zip'; {remedy}",
        "error: params.yaml: fetch_weights.convnet.path: expected a file or folder, got nothing "
        f"at 'w.h5'; {remedy}",
        f"error: params.yaml: compute.threads: expected at most the {processors()} processors of "
        "this machine, got 10000; lower it (results then differ in their last digits)",
    ]


def test_the_command_tells_of_an_instruction_set_that_this_processor_lacks(
    elsewhere: None,
    params: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    change(params, "compute.instruction_set", "AVX512_CORE_AMX")
    change(params, "compute.threads", None)
    for name in ("train", "test"):
        Path(params["data"][name]).parent.mkdir(parents=True, exist_ok=True)
        Path(params["data"][name]).touch()
    Path("params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["check"])
    monkeypatch.setattr(cpu, "flags", lambda: frozenset(["sse4_1"]))
    assert checking.main() == 1
    assert capsys.readouterr().err == (
        "error: params.yaml: compute.instruction_set: expected one that this processor has "
        "(SSE41), got 'AVX512_CORE_AMX', which needs amx_tile, amx_bf16, amx_int8; "
        "lower it (results then differ in their last digits)\n"
    )


def test_the_command_tells_of_a_variable_that_nothing_reads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("STAGES_CLUSTERS", "tcp://host:8786")
    run = check(ROOT)
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr == (
        "error: STAGES_CLUSTERS: expected one of STAGES_ROW_CACHE_GIB, STAGES_MEMORY_GIB, "
        "STAGES_DISK_GIB, STAGES_CLUSTER, got an unknown variable; did you mean STAGES_CLUSTER? "
        "Rename or unset it\n"
    )


def check(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pipeline.commands.check"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_bfloat16_is_refused_below_the_instruction_sets_that_can_compute_it(
    write_params: Callable[..., None],
) -> None:
    write_params(extract={"precision": "bfloat16"}, compute={"instruction_set": "AVX2"})
    with pytest.raises(UserError) as error:
        parameters.read()
    assert str(error.value) == (
        "params.yaml: compute.instruction_set: expected null or AVX512_CORE or above, as "
        "extract.precision is bfloat16, got 'AVX2'; change one"
    )
    write_params(compute={"instruction_set": "AVX512_CORE"})
    assert parameters.read().extract.precision == "bfloat16"
