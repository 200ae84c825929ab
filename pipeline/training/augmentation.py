"""Random augmentation of training images, as Keras layers.

Input and output: float (n, size, size, 3), values 0 to 255. Pixels from outside of the image take
the value of the nearest pixel inside.
"""

import keras


def augmentation(
    *,
    rotation: float,
    shift: float,
    shear: float,
    zoom: float,
    flip: bool,
    brightness: float,
    seed: int,
) -> keras.Sequential:
    """Stack the layers of all ranges that are not 0 or false.

    Args:
        rotation: largest angle, degrees to either side.
        shift: largest shift, fraction of height and of width.
        shear: largest shear factor along either axis.
        zoom: largest zoom in or out, a fraction.
        flip: mirror left and right, with probability one half.
        brightness: largest change, fraction of the value range.
        seed: of the first layer; the following ones count up from it.
    """
    fill = {"fill_mode": "nearest"}
    layers: list[keras.layers.Layer] = []
    if flip:
        layers.append(keras.layers.RandomFlip("horizontal", seed=seed))
    if rotation:
        layers.append(keras.layers.RandomRotation(rotation / 360, seed=seed + 1, **fill))
    if shift:
        layers.append(keras.layers.RandomTranslation(shift, shift, seed=seed + 2, **fill))
    if shear:
        layers.append(keras.layers.RandomShear(shear, shear, seed=seed + 3, **fill))
    if zoom:
        layers.append(keras.layers.RandomZoom((-zoom, zoom), seed=seed + 4, **fill))
    if brightness:
        layers.append(keras.layers.RandomBrightness(brightness, (0, 255), seed=seed + 5))
    return keras.Sequential(layers or [keras.layers.Identity()], name="augmentation")
