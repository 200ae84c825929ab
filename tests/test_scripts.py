import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.config import read, require_backbone
from pipeline.runtime import entrypoint
from pipeline.runtime.atomic_files import only_writer
from pipeline.runtime.entrypoint import arguments, peak_memory, stage
from pipeline.runtime.errors import UserError
from stages import extract, fetch_weights

ROOT = Path(__file__).parent.parent


def test_another_number_of_arguments_is_told_with_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["stages/extract.py", "convnet"])
    with pytest.raises(UserError) as told:
        arguments(extract.__doc__, count=4)
    assert str(told.value) == (
        "extract: expected 4 arguments, got 1; call it as python -m stages.extract NAME "
        "data/resized.zarr data/weights/NAME.weights.h5 data/features/NAME.zarr "
        "[--cluster ADDRESS]"
    )


@pytest.mark.parametrize(
    "name",
    [
        "split",
        "resize",
        "fetch_weights",
        "extract",
        "train_head",
        "fine_tune",
        "evaluate",
        "report",
        "submit",
    ],
)
@pytest.mark.slow
def test_a_stage_without_arguments_ends_with_one_sentence(name: str, tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", f"stages.{name}"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"error: {name}: expected ")
    assert f"call it as python -m stages.{name} " in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_a_stage_does_not_run_twice_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["stages/resize.py"])
    worked: list[int] = []
    Path("data").mkdir()
    with only_writer(Path("data/resize")):
        assert stage(lambda: worked.append(1))() == 1
    assert capsys.readouterr().err == (
        "error: data/resize: expected to be its only writer, got a second one at work on it; "
        "wait for the other run to end, or stop it\n"
    )
    assert worked == []
    assert stage(lambda: worked.append(1))() == 0
    assert worked == [1]


def test_a_stage_ends_with_its_time_and_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["stages/resize.py"])
    assert stage(lambda: None)() == 0
    mebibytes = f"{peak_memory() / 2**20:,.0f}"
    assert capsys.readouterr().out == f"resize: done in 0.0 s, at most {mebibytes} MiB\n"


def test_features_beyond_float16_are_refused() -> None:
    features = np.array([[1.0, 70_000.0]], dtype=np.float32)
    with pytest.raises(UserError) as told:
        extract._stored(features, "float16")
    assert str(told.value) == (
        "extract: expected features that fit into float16, got values up to 70000; "
        "set extract.dtype: float32, or check the weights"
    )
    assert extract._stored(features, "float32").dtype == np.float32


def test_a_backbone_without_an_entry_is_refused() -> None:
    with pytest.raises(UserError) as told:
        require_backbone(read(ROOT / "params.yaml"), "VGG16")
    assert str(told.value) == (
        "params.yaml: fetch_weights: expected an entry for 'VGG16', got only convnet; add it"
    )


def test_a_broken_line_among_the_recorded_digests_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    fetch_weights.PINS.parent.mkdir()
    fetch_weights.PINS.write_text("aa  MobileNet\n<<<<<<< HEAD of mine\n")
    with pytest.raises(UserError) as told:
        fetch_weights._check_pin("MobileNet", "aa")
    assert str(told.value) == (
        f"{fetch_weights.PINS} line 2: expected a digest and a name, got "
        "'<<<<<<< HEAD of mine'; mend or remove that line"
    )


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the system tells no better")
def test_the_peak_is_of_this_program_and_not_of_the_one_that_started_it() -> None:
    """What a parent held before `exec` is not the stage's."""
    held = np.ones(2**26)  # 512 MiB
    code = "from pipeline.runtime.entrypoint import peak_memory; print(peak_memory())"
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert held.nbytes > 400 * 2**20 > int(ended.stdout) > 2**20


@pytest.mark.parametrize(
    "text", ["VGG16", "extract@VGG16", "../dvc.yaml:extract@VGG16", "a@b/dvc.yaml:extract@VGG16"]
)
def test_a_backbone_is_named_by_itself_or_as_dvc_names_a_stage(text: str) -> None:
    assert entrypoint.backbone_of(text) == "VGG16"


def test_paths_of_dvc_yaml_name_the_first_and_the_last_backbone_by_their_places() -> None:
    given = ["data/features/[0].zarr", "data/features/[-1].zarr"]
    paths = {name: f"data/features/{name}.zarr" for name in ("VGG16", "convnet")}
    assert entrypoint.one_each(["VGG16", "convnet"], given) == paths
    assert entrypoint.one_each(["VGG16"], given) == {"VGG16": paths["VGG16"]}
    assert entrypoint.one_each(["VGG16", "convnet"], [*paths.values()]) == paths
