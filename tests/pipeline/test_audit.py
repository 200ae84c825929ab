"""`audit` in this process, on features and pixels in which faults are planted."""

import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from local_cluster import local_cluster

from pipeline.evaluation import audit as tables
from pipeline.storage import arrays, ledger
from stages import audit

IMAGES = 60  # cats and dogs in turn
SWAPPED, ODD, DARK, BLANK, COPY = 7, 20, 11, 12, 41  # the copy is one of the image before it


@pytest.fixture(autouse=True)
def run(write_params: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """A ledger with 60 labelled images and one without a label, rejected ones aside."""
    write_params()
    monkeypatch.setattr(sys, "argv", ["stage"])
    rng = np.random.default_rng(0)
    rows = [
        ledger.LedgerRow(
            f"{i}", "train", f"<{i}>.jpg", ("cat", "dog")[i % 2], i % 2,
            "train" if i % 3 else "valid", f"{i}", 9, 9, "RGB", f"train/{i - (i == 33)}", "",
        )
        for i in range(IMAGES)
    ]  # fmt: skip
    rows.insert(5, ledger.LedgerRow("x", "train", "x.jpg", "", -1, "", "", 0, 0, "", "", "broken"))
    rows.append(
        ledger.LedgerRow("u", "test", "u.jpg", "", -1, "unlabelled", "u", 9, 9, "RGB", "test/u", "")
    )
    ledger.write_ledger(Path("data/split.csv"), rows)
    fingerprint = ledger.fingerprint(rows)
    pixels = rng.integers(0, 256, (IMAGES + 1, 16, 16, 3)).astype(np.uint8)
    pixels[DARK] //= 5
    pixels[BLANK] = 200
    features = rng.normal(0, 1, (IMAGES + 1, 2, 64)).astype(np.float32)
    features[:, 0, 0] += np.where(np.arange(IMAGES + 1) % 2, 12, -12)
    features[SWAPPED, 0, 0] *= -1
    features[ODD, 0] = -4 * features[ODD, 0]
    features[ODD, 0, 0] = 0
    features[COPY, 0] = features[COPY - 2, 0]
    for path, values in (("data/resized.zarr", pixels), ("data/features/convnet.zarr", features)):
        arrays.write(
            Path(path), [values], shape=values.shape, dtype=values.dtype, fingerprint=fingerprint
        )


def lines(name: str) -> list[dict[str, str]]:
    with Path("metrics/audit", name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_planted_faults_are_in_the_tables_and_a_rerun_gives_the_same_bytes() -> None:
    assert audit.main() == 0
    doubtful = lines("labels.csv")
    first = ("member", "subset", "label", "suggested", "likely")
    assert [doubtful[0][key] for key in first] == [f"<{SWAPPED}>.jpg", "train", "dog", "cat", "yes"]
    assert lines("outliers.csv")[0]["member"] == f"<{ODD}>.jpg"
    light = {(line["member"], line["fault"]) for line in lines("light.csv")}
    assert light == {(f"<{DARK}>.jpg", "dark"), (f"<{BLANK}>.jpg", "blank")}
    assert [line["member"] for line in lines("copies.csv")] == ["<32>.jpg", "<33>.jpg"]
    (pair,) = lines("alike.csv")
    assert (pair["member"], pair["other"]) == (f"<{COPY - 2}>.jpg", f"<{COPY}>.jpg")
    assert (pair["subset"], pair["other_subset"]) == ("valid", "train")
    assert float(pair["likeness"]) < 0.01
    metrics = json.loads(Path("metrics/audit.json").read_text(encoding="utf-8"))
    assert [line["likely"] for line in doubtful].count("yes") == metrics["likely_label_errors"]
    assert all(float(line["margin"]) > 0 for line in doubtful)
    assert len(doubtful) == metrics["out_of_fold"]["misclassified"]
    assert metrics["light"] == {"blank": 1, "blurred": 0, "dark": 1, "light": 0}
    assert (metrics["images"], metrics["copies"], metrics["alike_pairs"]) == (60, 2, 1)
    before = {path: path.read_bytes() for path in Path("metrics/audit").iterdir()}
    assert audit.main() == 0
    assert {path: path.read_bytes() for path in Path("metrics/audit").iterdir()} == before


def test_features_in_a_file_give_the_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert audit.main() == 0
    before = {path: path.read_bytes() for path in Path("metrics").rglob("*.*")}
    monkeypatch.setenv("STAGES_MEMORY_GIB", "0")
    assert audit.main() == 0
    assert {path: path.read_bytes() for path in Path("metrics").rglob("*.*")} == before


def test_random_sums_of_many_features_find_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "MOST_FEATURES", 10)
    monkeypatch.setattr(tables, "PROJECTED", 48)
    assert audit.main() == 0
    assert lines("labels.csv")[0]["member"] == f"<{SWAPPED}>.jpg"
    assert lines("outliers.csv")[0]["member"] == f"<{ODD}>.jpg"
    assert [pair["other"] for pair in lines("alike.csv")] == [f"<{COPY}>.jpg"]


@pytest.mark.parametrize("label", [[0, 1], [0, 1, 2], [0, 0, 1]])
def test_few_images_are_judged_without_cross_validation(label: list[int]) -> None:
    features = np.eye(4, dtype=np.float32)[: len(label)]
    probability = np.exp(audit._fit()(features.copy(), np.array(label))(features))
    assert probability.shape == (len(label), max(label) + 1)
    assert np.allclose(probability.sum(axis=1), 1)


class TestOnACluster:
    pytestmark = pytest.mark.xdist_group("cluster")

    def test_workers_measure_light_as_this_process_does(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tables, "PART", 16)
        assert audit.main() == 0
        before = {path: path.read_bytes() for path in Path("metrics").rglob("*.*")}
        with local_cluster() as address:
            monkeypatch.setenv("STAGES_CLUSTER", address)
            assert audit.main() == 0
        assert {path: path.read_bytes() for path in Path("metrics").rglob("*.*")} == before
