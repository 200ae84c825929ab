"""A Keras application with average pooling, in OpenVINO's format.

python -m benchmarks.contenders.openvino_export NAME WEIGHTS SIZE MODEL.xml
"""

import sys

import keras


def main(name: str, weights: str, pixels: str, model: str) -> None:
    size = int(pixels)
    application = getattr(keras.applications, name)
    network = application(
        include_top=False, weights=None, input_shape=(size, size, 3), pooling="avg", name=name
    )
    network.load_weights(weights)
    network.export(model, format="openvino", verbose=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
