"""Extraction and fine-tuning on a GPU, against the framework alone; and the same bytes twice.

    python -m benchmarks.gpu [--backend jax] [--images 4096] [--size 224] [--batch 256]

Needs Keras, zarr and JAX or TensorFlow, and the project. Pixels are drawn, weights random. The
limit of extraction is the same network on a batch that lies in the device's memory; that of
fine-tuning is Keras' own loop on images in memory. Everything runs twice, in two processes.
"""

import argparse
import hashlib
import importlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.backbones import keras_setup
from pipeline.runtime import machine
from pipeline.runtime.entrypoint import command, peak_memory
from pipeline.storage import arrays

NETWORKS = {  # and the layer that fine-tuning trains from
    "ResNet50": "conv5_block1_1_conv",
    "MobileNetV2": "block_16_expand",
    "convnet": "conv4",
}
STEPS = 20  # of fine-tuning


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--backend",
        default="jax" if machine.installed("jax") else "tensorflow",
        choices=("jax", "tensorflow"),
        help="default: jax if it is installed",
    )
    parser.add_argument("--precision", default="bfloat16", choices=("float32", "tf32", "bfloat16"))
    parser.add_argument("--images", type=int, default=4096)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument(
        "--networks", nargs="+", default=["ResNet50", "MobileNetV2"], choices=[*NETWORKS]
    )
    parser.add_argument("--once", action="store_true", help="measure once, in this process")
    given = parser.parse_args()
    if not 1 <= given.batch <= given.images:
        parser.error(
            f"--batch: expected 1 to {given.images}, the number of images, got {given.batch}"
        )
    if given.once:
        sys.exit(command(_measure)(given))
    cards = [line.removeprefix("Model:").strip() for line in machine.accelerators()[1:]]
    print(f"on {', '.join(cards) or f'no GPU: {machine.model_name()}'}, {given.backend}")
    words = [sys.executable, "-m", "benchmarks.gpu", *sys.argv[1:], "--once"]
    printed = []
    for _ in range(2):
        ended = subprocess.run(words, stdout=subprocess.PIPE, text=True)  # noqa: S603  this file
        print(ended.stdout, end="", flush=True)
        if ended.returncode:  # it has said why
            sys.exit(ended.returncode)
        printed.append([line for line in ended.stdout.splitlines() if line.startswith("sha256")])
    same = printed[0] == printed[1] and len(printed[0]) == 2 * len(given.networks)
    print(f"bytes of features and fine-tuned weights: {'the same' if same else 'DIFFERENT'} twice")
    sys.exit(not same)


def _measure(given: argparse.Namespace) -> None:
    keras_setup.start(given.backend, None, None, given.precision)
    import keras

    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory(dir=".") as folder:
        pixels = Path(folder) / "pixels.zarr"
        shape = given.images, given.size, given.size, 3
        blocks = (
            rng.integers(0, 256, (min(given.batch, given.images - at), *shape[1:]), np.uint8)
            for at in range(0, given.images, given.batch)
        )
        arrays.write(pixels, blocks, shape=shape, dtype=np.uint8, fingerprint="drawn")
        for name in given.networks:
            keras.utils.set_random_seed(0)
            _extraction(name, pixels, Path(folder) / f"{name}.zarr", given)
            _fine_tuning(name, pixels, given)
    print(f"memory of the process: {peak_memory() / 2**20:,.0f} MiB")


def _extraction(name: str, pixels: Path, out: Path, given: argparse.Namespace) -> None:
    """Print the rate from pixels on disk to features on disk, of its parts, and the limit."""
    from pipeline.backbones import build

    network = build.network(name, given.size, False, None)
    model = build.extractor(network, name, None, "avg", keras_setup.dtype(given.precision))
    started = keras_setup.starter(model)
    images, size = arrays.StoredArray(pixels), given.batch

    def start(batch: NDArray[np.uint8]) -> keras_setup.Wait:
        return started(keras_setup.padded(batch, size), len(batch))

    first = next(iter(images.batches(size)))
    start(first)()  # compiles
    rounds = max(2, len(images) // size)
    on_device = _on_device(keras_setup.padded(first, size), given.backend)

    def compute() -> None:
        waits = [started(on_device, size) for _ in range(rounds)]
        waits[-1]()

    def features() -> Iterator[NDArray[np.float32]]:
        return keras_setup.in_flight(start, images.batches(size))

    def whole() -> None:
        arrays.write(
            out,
            features(),
            shape=(len(images), model.output_shape[-1]),
            dtype=np.float32,
            fingerprint="drawn",
        )

    def read() -> None:
        for _ in images.batches(size):
            pass

    def copy() -> None:
        for _ in range(rounds):
            _on_device(first, given.backend)

    limit = rounds * size / _seconds(compute)
    rate = len(images) / _seconds(whole)
    print(
        f"{name}: extraction {rate:,.0f} img/s, {rate / limit:.2f} of the limit, {limit:,.0f}; "
        f"reading alone {len(images) / _seconds(read):,.0f}, copying "
        f"{rounds * len(first) / _seconds(copy):,.0f}"
    )
    stored = arrays.StoredArray(out)
    print(f"sha256 {name} features {_digest([stored.read(0, len(stored))])}")


def _fine_tuning(name: str, pixels: Path, given: argparse.Namespace) -> None:
    """Print steps a second of the project's loop and of Keras' on images in memory."""
    import keras

    from pipeline.backbones import build
    from pipeline.training import loop

    size = max(1, given.batch // 4)
    images = arrays.StoredArray(pixels)
    rows = np.arange(min(len(images), STEPS * size))
    label = np.random.default_rng(0).integers(0, 2, len(rows))
    count = len(rows) // size

    def model() -> keras.Model:
        keras.utils.set_random_seed(0)
        extractor = build.extractor(build.network(name, given.size, False, None), name, None, "avg")
        build.unfreeze_from(extractor, NETWORKS[name])
        head = loop.dense_head(extractor.output_shape[-1], [], 2)
        made = keras.Model(extractor.inputs, head(extractor.outputs[0]))
        loop.compile_for(made, keras.optimizers.SGD(0.01))
        return made

    def batches() -> Iterator[loop.Batch]:
        for at in range(0, count * size, size):
            yield images.read(at, at + size), label[at : at + size]

    def ours() -> None:
        loop.train_epoch(trained, batches(), count, None, lambda _: None)

    in_memory = images.read(0, count * size)

    def plain() -> None:
        other.fit(in_memory, label[: len(in_memory)], batch_size=size, shuffle=False, verbose=0)

    trained, other = model(), model()
    ours()  # compiles, as the next one does
    plain()
    own, limit = count / _seconds(ours), count / _seconds(plain)
    print(f"{name}: fine-tuning {own:.2f} steps/s of {size}, {own / limit:.2f} of Keras' in memory")
    print(f"sha256 {name} fine-tuned {_digest(trained.get_weights())}")


def _on_device(values: NDArray[Any], backend: str) -> Any:
    """Return values in the device's memory, where they are when this returns."""
    if backend == "jax":
        return importlib.import_module("jax").device_put(values).block_until_ready()
    return importlib.import_module("tensorflow").constant(values)


def _seconds(work: Any) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _digest(values: list[NDArray[Any]]) -> str:
    digest = hashlib.sha256()
    for one in values:
        digest.update(np.ascontiguousarray(one).tobytes())
    return digest.hexdigest()


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    main()
