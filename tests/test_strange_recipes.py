"""What a `params.yaml` of a stranger can do, by real runs of DVC: it names data, not commands."""

from pathlib import Path

import pytest
import yaml
from project import ROOT, Project

BEHIND = "; change it\n"


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project.copy_of_this(tmp_path_factory.mktemp("strange") / "project")
    (project.folder / "data" / "names.txt").write_text("as if that stage had let it pass")
    return project


def rename(project: Project, name: str) -> None:
    """Give the sample's network another name, wherever it is named."""
    project.git("checkout", "--quiet", "params.yaml")
    project.change(
        {
            "extract.backbones": [name],
            "train_head.backbones": [name],
            "fetch_weights": {name: {"source": "random", "seed": 0, "include_top": False}},
        }
    )


def test_no_command_of_dvc_takes_text_from_params() -> None:
    """What stands in `${...}` is put into the command as it is, for a shell to read."""
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    assert [name for name, stage in stages.items() if "${" in str(stage["cmd"])] == []


def test_names_of_networks_are_refused_before_a_stage_writes_under_them() -> None:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    named = [name for name, stage in stages.items() if "${" in str(stage.get("outs"))]
    assert named == ["fetch_weights", "extract"]
    assert all("data/names.txt" in stages[name]["deps"] for name in named)


@pytest.mark.parametrize("name", ["x$(touch ran)", "x'\";touch ran;\"'`touch ran`"])
def test_a_name_that_hides_a_command_runs_nothing(name: str, clone: Project) -> None:
    rename(clone, name)
    printed = clone.run("dvc", "repro", "--single-item", "fetch_weights", passes=False)
    assert (
        "error: params.yaml: extract.backbones: expected the name of a network, of letters, digits "
        f"and _, got {name!r}{BEHIND}"
    ) in printed
    assert "Traceback" not in printed
    assert not (clone.folder / "ran").exists()


def test_a_name_that_climbs_out_of_its_folder_removes_nothing(clone: Project) -> None:
    mine = clone.folder.parent / "mine.weights.h5"
    mine.write_text("mine")
    rename(clone, "../../../mine")
    assert Path(clone.folder, "data/weights/../../../mine.weights.h5").resolve() == mine
    printed = clone.run("dvc", "repro", "fetch_weights", passes=False)
    assert f"got '../../../mine'{BEHIND}" in printed
    assert "failed to reproduce 'names'" in printed
    assert mine.read_text() == "mine"
