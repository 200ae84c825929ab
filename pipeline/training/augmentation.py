"""Random augmentation of training images, as Keras layers.

Input and output: float (n, size, size, 3), values 0 to 255. Pixels from outside of the image take
the value of the nearest pixel inside.
"""

import keras
from keras import layers

from pipeline.schema import Augment


def augmentation(augment: Augment, seed: int) -> keras.Sequential:
    """Stack the layers of all changes that are not switched off; each has a seed of its own."""
    rotation, shift, shear, zoom = augment.rotation, augment.shift, augment.shear, augment.zoom
    fill = {"fill_mode": "nearest"}
    changes = [
        augment.flip and layers.RandomFlip("horizontal", seed=seed),
        rotation and layers.RandomRotation(rotation / 360, seed=seed + 1, **fill),
        shift and layers.RandomTranslation(shift, shift, seed=seed + 2, **fill),
        shear and layers.RandomShear(shear, shear, seed=seed + 3, **fill),
        zoom and layers.RandomZoom((-zoom, zoom), seed=seed + 4, **fill),
        augment.brightness and layers.RandomBrightness(augment.brightness, (0, 255), seed=seed + 5),
        augment.rand_augment
        and layers.RandAugment((0, 255), factor=augment.rand_augment, seed=seed + 6),
    ]
    wanted = [layer for layer in changes if layer] or [layers.Identity()]
    return keras.Sequential(wanted, name="augmentation")
