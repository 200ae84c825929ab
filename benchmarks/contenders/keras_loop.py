"""A folder of photos to features as tutorials do it: load, `model.predict`, `np.save`.

python -m benchmarks.contenders.keras_loop NAME WEIGHTS SIZE FOLDER FEATURES.npy
"""

import sys
import time
from pathlib import Path

import keras
import numpy as np

FAMILY = {
    "VGG16": keras.applications.vgg16,
    "ResNet50": keras.applications.resnet50,
    "MobileNetV2": keras.applications.mobilenet_v2,
}


def main(name: str, weights: str, pixels: str, folder: str, features: str) -> None:
    size = int(pixels), int(pixels)
    application = getattr(keras.applications, name)
    model = application(
        include_top=False, weights=None, input_shape=(*size, 3), pooling="avg", name=name
    )
    model.load_weights(weights)
    paths = sorted(Path(folder).rglob("*.jpg"))

    started = time.perf_counter()
    images = np.array(
        [keras.utils.img_to_array(keras.utils.load_img(path, target_size=size)) for path in paths]
    )  # (n, size, size, 3) float32, 0 to 255
    images = FAMILY[name].preprocess_input(images)
    np.save(features, model.predict(images, batch_size=32, verbose=0))
    print(f"keras_loop: {len(paths)} img in {time.perf_counter() - started:.6f} s")


if __name__ == "__main__":
    main(*sys.argv[1:])
