"""The whole job as tutorials do it in one script: two zips of photos to a submission.

    python -m benchmarks.tutorial train.zip test.zip WEIGHTS SIZE FOLDER

Unpacks, loads and resizes with Pillow in a loop, runs the frozen network by 16 images in float32,
trains a dense head on what comes out, writes FOLDER/submission.csv.
"""

import csv
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray
from PIL import Image

BATCH_SIZE = 16
EPOCHS = 10
VALID = 0.1  # fraction of the labelled photos


def main(train: str, test: str, weights: str, pixels: str, place: str) -> None:
    size, folder = int(pixels), Path(place)
    for archive in (train, test):
        with zipfile.ZipFile(archive) as opened:
            opened.extractall(folder)
    network = keras.applications.MobileNetV2(
        include_top=False, weights=None, input_shape=(size, size, 3), pooling="avg"
    )
    network.load_weights(weights)
    keras.utils.set_random_seed(0)

    labelled = sorted((folder / "train").rglob("*.jpg"))
    np.random.default_rng(0).shuffle(labelled)
    labels = np.array([path.name.startswith("dog") for path in labelled], dtype=np.float32)
    features = predict(network, labelled, size)
    valid = max(1, int(len(labelled) * VALID))
    head = keras.Sequential(
        [
            keras.Input(features.shape[1:]),
            keras.layers.Dense(256, activation="relu"),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(1, activation="sigmoid"),
        ]
    )
    head.compile("rmsprop", "binary_crossentropy", metrics=["accuracy"])
    history = head.fit(
        features[valid:],
        labels[valid:],
        batch_size=BATCH_SIZE,
        epochs=EPOCHS,
        validation_data=(features[:valid], labels[:valid]),
        verbose=0,
    )
    accuracy = history.history["val_accuracy"][-1]
    print(f"accuracy {accuracy:.4f} on {valid} images held out")

    unlabelled = sorted((folder / "test").rglob("*.jpg"), key=lambda path: int(path.stem))
    probabilities = head.predict(predict(network, unlabelled, size), verbose=0)[:, 0]
    with (folder / "submission.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "label"])
        writer.writerows(
            (path.stem, f"{probability:.6f}")
            for path, probability in zip(unlabelled, probabilities, strict=True)
        )


def predict(network: keras.Model, paths: list[Path], size: int) -> NDArray[np.float32]:
    """Features (n, d) of the photos at `paths`."""
    steps = -(-len(paths) // BATCH_SIZE)
    return np.asarray(network.predict(batches(paths, size), steps=steps, verbose=0))


def batches(paths: list[Path], size: int) -> Iterator[tuple[NDArray[Any]]]:
    """Photos (n, size, size, 3) as the network wants them, each batch alone in a tuple."""
    for first in range(0, len(paths), BATCH_SIZE):
        images = [
            np.asarray(Image.open(path).convert("RGB").resize((size, size)), dtype=np.float32)
            for path in paths[first : first + BATCH_SIZE]
        ]
        yield (keras.applications.mobilenet_v2.preprocess_input(np.stack(images)),)


if __name__ == "__main__":
    main(*sys.argv[1:])
