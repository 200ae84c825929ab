"""The drawn sample in data/sample: what it holds, and that it can be drawn again."""

import io
import zipfile
from collections import defaultdict
from pathlib import Path

import draw
import numpy as np
import pytest
from PIL import Image
from project import ROOT
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

COMMITTED = ROOT / "data" / "sample"
ZIPS = ("train.zip", "test.zip")
Files = dict[str, bytes]


def read(folder: Path) -> Files:
    files: Files = {}
    for name in ZIPS:
        with zipfile.ZipFile(folder / name) as archive:
            files |= {member: archive.read(member) for member in archive.namelist()}
    return files


def decode(jpeg: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(jpeg), formats=["JPEG"])
    image.load()
    return image


@pytest.fixture(scope="module")
def files() -> Files:
    return read(COMMITTED)


@pytest.mark.slow
def test_drawing_the_sample_again_gives_the_committed_bytes(tmp_path: Path) -> None:
    draw.write_zips(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(ZIPS)
    for name in ZIPS:
        assert (tmp_path / name).read_bytes() == (COMMITTED / name).read_bytes()


def test_the_layout_is_that_of_dogs_vs_cats_in_at_most_3_mb(files: Files) -> None:
    labelled = [f"train/{kind}.{i}.jpg" for kind in ("cat", "dog") for i in range(400)]
    assert list(files) == [*labelled, *(f"test/{i}.jpg" for i in range(1, 101))]
    assert sum((COMMITTED / name).stat().st_size for name in ZIPS) <= 3_000_000


def test_every_file_but_one_is_an_rgb_image_of_90_to_160_pixels_a_side(files: Files) -> None:
    with pytest.raises(OSError, match="truncated"):
        decode(files[draw.PLANTED_TRUNCATED])
    images = [decode(jpeg) for name, jpeg in files.items() if name != draw.PLANTED_TRUNCATED]
    assert {image.mode for image in images} == {"RGB"}
    assert {side for image in images for side in image.size} == set(range(90, 161))
    aspects = [image.width / image.height for image in images]
    assert min(aspects) < 0.7
    assert max(aspects) > 1.4


def test_the_planted_duplicates_are_the_only_identical_files(files: Files) -> None:
    groups = defaultdict(list)
    for name, jpeg in files.items():
        groups[jpeg].append(name)
    repeated = [tuple(names) for names in groups.values() if len(names) > 1]
    assert repeated == [draw.PLANTED_DUPLICATE]


def test_the_wrongly_labelled_file_shows_a_cat(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = []
    original = draw.draw

    def record(kind: draw.Kind, rng: np.random.Generator) -> Image.Image:
        kinds.append(kind)
        return original(kind, rng)

    monkeypatch.setattr(draw, "draw", record)
    assert draw.encode(draw.PLANTED_WRONG_LABEL) == files[draw.PLANTED_WRONG_LABEL]
    draw.encode(draw.PLANTED_WRONG_LABEL, faults=False)
    draw.encode("train/dog.0.jpg")
    assert draw.encode("train/cat.0.jpg", seed=1) != files["train/cat.0.jpg"]
    assert kinds == ["cat", "dog", "dog", "cat"]


def test_a_file_does_not_depend_on_how_many_are_drawn(files: Files, tmp_path: Path) -> None:
    draw.write_zips(tmp_path, labelled=20, unlabelled=3, faults=False)
    few = read(tmp_path)
    labelled = [f"train/{kind}.{i}.jpg" for kind in ("cat", "dog") for i in range(10)]
    assert list(few) == [*labelled, "test/1.jpg", "test/2.jpg", "test/3.jpg"]
    differing = {name for name, jpeg in few.items() if files[name] != jpeg}
    assert differing == {draw.PLANTED_TRUNCATED}


@pytest.mark.slow
def test_a_linear_model_on_raw_pixels_stays_under_85_percent(files: Files) -> None:
    names = [name for name in files if name[:5] == "train" and name != draw.PLANTED_TRUNCATED]
    small = [decode(files[name]).resize((32, 32), Image.Resampling.BILINEAR) for name in names]
    order = np.random.default_rng(0).permutation(len(names))
    pixels = np.stack([np.asarray(image).ravel() for image in small]).astype(np.float64)[order]
    labels = np.array([name.startswith("train/dog") for name in names])[order]
    scaled = StandardScaler().fit(pixels[:600]).transform(pixels)
    scores = []
    for strength in (1e-4, 1e-3, 1e-2):
        model = LogisticRegression(C=strength, max_iter=500).fit(scaled[:600], labels[:600])
        scores.append(model.score(scaled[600:], labels[600:]))
    assert 0.5 < max(scores) < 0.85
