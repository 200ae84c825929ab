import hashlib
import io
import zipfile
from collections import defaultdict
from pathlib import Path

import draw
import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

COMMITTED = Path(__file__).parents[2] / "data" / "sample"
Files = dict[str, bytes]


def read(path: Path) -> Files:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def decode(jpeg: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(jpeg), formats=["JPEG"])
    image.load()
    return image


@pytest.fixture(scope="module")
def train() -> Files:
    return read(COMMITTED / "train.zip")


@pytest.fixture(scope="module")
def test() -> Files:
    return read(COMMITTED / "test.zip")


@pytest.mark.slow
def test_drawing_the_sample_again_gives_the_committed_bytes(tmp_path: Path) -> None:
    draw.write_zips(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["test.zip", "train.zip"]
    for name in ("train.zip", "test.zip"):
        assert sha256(tmp_path / name) == sha256(COMMITTED / name)


def test_both_zips_together_take_at_most_3_mb() -> None:
    assert sum((COMMITTED / name).stat().st_size for name in ("train.zip", "test.zip")) <= 3_000_000


def test_the_layout_is_that_of_dogs_vs_cats(train: Files, test: Files) -> None:
    assert list(train) == [f"train/{kind}.{i}.jpg" for kind in ("cat", "dog") for i in range(400)]
    assert list(test) == [f"test/{i}.jpg" for i in range(1, 101)]


def test_the_truncated_file_cannot_be_decoded(train: Files) -> None:
    with pytest.raises(OSError, match="truncated"):
        decode(train[draw.PLANTED_TRUNCATED])


def test_every_other_file_is_an_rgb_image_of_90_to_160_pixels_a_side(
    train: Files, test: Files
) -> None:
    images = [
        decode(jpeg) for name, jpeg in {**train, **test}.items() if name != draw.PLANTED_TRUNCATED
    ]
    assert len(images) == 899
    assert {image.mode for image in images} == {"RGB"}
    assert {side for image in images for side in image.size} == set(range(90, 161))
    aspects = [image.width / image.height for image in images]
    assert min(aspects) < 0.7
    assert max(aspects) > 1.4


def test_the_planted_duplicates_are_the_only_identical_files(train: Files, test: Files) -> None:
    groups = defaultdict(list)
    for name, jpeg in {**train, **test}.items():
        groups[jpeg].append(name)
    repeated = [tuple(names) for names in groups.values() if len(names) > 1]
    assert repeated == [draw.PLANTED_DUPLICATE]


def test_the_wrongly_labelled_file_shows_a_cat(
    train: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = []
    original = draw.draw

    def record(kind: draw.Kind, rng: np.random.Generator) -> Image.Image:
        kinds.append(kind)
        return original(kind, rng)

    monkeypatch.setattr(draw, "draw", record)
    assert draw.encode(draw.PLANTED_WRONG_LABEL) == train[draw.PLANTED_WRONG_LABEL]
    draw.encode(draw.PLANTED_WRONG_LABEL, faults=False)
    draw.encode("train/dog.0.jpg")
    draw.encode("train/cat.0.jpg")
    assert kinds == ["cat", "dog", "dog", "cat"]


def test_a_file_does_not_depend_on_how_many_are_drawn(
    train: Files, test: Files, tmp_path: Path
) -> None:
    draw.write_zips(tmp_path, labelled=20, unlabelled=3, faults=False)
    few = read(tmp_path / "train.zip")
    assert list(few) == [f"train/{kind}.{i}.jpg" for kind in ("cat", "dog") for i in range(10)]
    differing = {name for name, jpeg in few.items() if train[name] != jpeg}
    assert differing == {draw.PLANTED_TRUNCATED}
    assert read(tmp_path / "test.zip") == {
        f"test/{i}.jpg": test[f"test/{i}.jpg"] for i in (1, 2, 3)
    }


def test_another_seed_draws_other_images(train: Files) -> None:
    assert draw.encode("train/cat.0.jpg", seed=1) != train["train/cat.0.jpg"]


@pytest.mark.slow
def test_a_linear_model_on_raw_pixels_stays_under_85_percent(train: Files) -> None:
    names = [name for name in train if name != draw.PLANTED_TRUNCATED]
    small = [decode(train[name]).resize((32, 32), Image.Resampling.BILINEAR) for name in names]
    order = np.random.default_rng(0).permutation(len(names))
    pixels = np.stack([np.asarray(image).ravel() for image in small]).astype(np.float64)[order]
    labels = np.array([name.startswith("train/dog") for name in names])[order]
    scaled = StandardScaler().fit(pixels[:600]).transform(pixels)
    scores = []
    for strength in (1e-4, 1e-3, 1e-2):
        model = LogisticRegression(C=strength, max_iter=500).fit(scaled[:600], labels[:600])
        scores.append(model.score(scaled[600:], labels[600:]))
    assert 0.5 < max(scores) < 0.85
