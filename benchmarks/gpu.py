"""Extraction and fine-tuning on a GPU, against the framework alone; and the same bytes twice.

    python -m benchmarks.gpu [--backend jax] [--images 4096] [--size 224] [--batch 256]

Needs Keras, zarr and JAX or TensorFlow, and the project. Pixels are drawn, weights random. What is
measured is the work of the stage `extract`, with one view; its limit is the same compiled network
on a batch that lies in the device's memory; that of fine-tuning is Keras' own loop on images in
memory. Everything runs twice, in two processes.
"""

import argparse
import contextlib
import hashlib
import importlib
import io
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline import config, paths
from pipeline.backbones import keras_setup
from pipeline.commands import recipe
from pipeline.runtime import machine, parallel
from pipeline.runtime.entrypoint import command, peak_memory
from pipeline.storage import arrays, cached_shards
from stages.extract import SHARDS_AT_ONCE

TRANSFORMER = "ViT-B/16"  # its rate on the device only
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
        "--networks",
        nargs="+",
        default=["ResNet50", "MobileNetV2", TRANSFORMER],
        choices=[*NETWORKS, TRANSFORMER],
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
    expected = 2 * sum(name != TRANSFORMER for name in given.networks)
    same = printed[0] == printed[1] and len(printed[0]) == expected
    print(f"bytes of features and fine-tuned weights: {'the same' if same else 'DIFFERENT'} twice")
    sys.exit(not same)


def _measure(given: argparse.Namespace) -> None:
    keras_setup.start(given.backend, None, None, given.precision)
    import keras

    rng, settings = np.random.default_rng(0), recipe.read("mobilenetv2-gpu")
    settings["resize"]["size"] = given.size
    settings["extract"] |= {"views": 1, "batch_size": given.batch, "precision": given.precision}
    settings["predict"]["views"] = 1
    settings["compute"]["backend"] = given.backend
    with tempfile.TemporaryDirectory(dir=".") as folder, contextlib.chdir(folder):
        paths.DATA.mkdir()
        shape = given.images, given.size, given.size, 3
        blocks = (
            rng.integers(0, 256, (min(given.batch, given.images - at), *shape[1:]), np.uint8)
            for at in range(0, given.images, given.batch)
        )
        arrays.write(paths.RESIZED, blocks, shape=shape, dtype=np.uint8, fingerprint="drawn")
        stored = arrays.StoredArray(paths.RESIZED)
        arrays.write_digests(
            paths.RESIZED, np.concatenate([*map(arrays.digests, stored.batches(given.batch))])
        )
        for name in given.networks:
            keras.utils.set_random_seed(0)
            if name == TRANSFORMER:
                _transformer(given)
                continue
            _extraction(name, given, settings)
            _fine_tuning(name, given)
    print(f"memory: process {peak_memory() / 2**20:,.0f} MiB{_memory_of_card(given.backend)}")


def _extraction(name: str, given: argparse.Namespace, settings: dict[str, Any]) -> None:
    """Print the rate of `extract`, pixels on disk to features on disk, of its parts, and the limit.

    The first batch compiles the network and is not measured.
    """
    from pipeline.backbones import build
    from pipeline.backbones.extraction import Extraction

    network = {"weights": "random", "seed": 0, "include_top": False}
    settings["backbones"] = {name: network | {"preprocessing": "rescale", "pooling": "avg"}}
    paths.WEIGHTS.mkdir(parents=True, exist_ok=True)
    build.network(name, given.size, False, None).save_weights(paths.weights(name))
    work = Extraction(name, paths.features(name), config.check(settings))
    size, images = given.batch, work.images
    first = images.read(0, size)
    work.start(first, False)()
    shape = (len(images), 1, work.width)

    def stage() -> None:
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            done = cached_shards.run(
                work, shape, images.fingerprint, title=name, threads=SHARDS_AT_ONCE, cluster=None
            )
        times.append(parallel.where_the_time_went(done))
        print(printed.getvalue(), end="", file=sys.stderr)

    times: list[str] = []
    rate = len(images) / _seconds(stage)
    limit = _limit(lambda batch: work.start(batch, False), first, given)
    read = len(images) * images.row_bytes() / _seconds(lambda: [None for _ in images.batches(size)])
    copies = [first] * max(2, len(images) // size)
    copy = sum(one.nbytes for one in copies) / _seconds(
        lambda: [_on_device(one, given.backend) for one in copies]
    )
    print(
        f"{name}: extraction {rate:,.0f} img/s, {rate / limit:.2f} of the limit, {limit:,.0f}; "
        f"pixels {rate * images.row_bytes() / 1e9:.2f} GB/s, reading alone {read / 1e9:.2f}, "
        f"copying to the device {copy / 1e9:.2f}; {times[0]}"
    )
    stored = arrays.StoredArray(paths.features(name))
    print(f"sha256 {name} features {_digest([stored.read(0, len(stored))])}")


def _transformer(given: argparse.Namespace) -> None:
    """Print how many images a second ViT-B/16 computes: mostly products of large matrices.

    A. Dosovitskiy et al., "An Image Is Worth 16x16 Words" (2021), table 1; without class token.
    """
    import keras
    from keras import layers

    keras.config.set_dtype_policy(keras_setup.dtype(given.precision))
    images = keras.Input((given.size, given.size, 3))
    x = layers.Reshape((-1, 768))(layers.Conv2D(768, 16, strides=16)(images))
    for _ in range(12):
        y = layers.LayerNormalization()(x)
        x = layers.add([x, layers.MultiHeadAttention(12, 64)(y, y)])
        y = layers.Dense(3072, activation="gelu")(layers.LayerNormalization()(x))
        x = layers.add([x, layers.Dense(768)(y)])
    model = keras.Model(images, layers.GlobalAveragePooling1D(dtype="float32")(x))
    keras.config.set_dtype_policy("float32")
    start = keras_setup.starter(model, given.batch)
    first = np.zeros((given.batch, given.size, given.size, 3), np.uint8)
    start(first)()
    print(f"ViT-B/16: {_limit(start, first, given):,.0f} img/s on a batch in the device's memory")


def _limit(
    start: Callable[[Any], keras_setup.Wait], batch: NDArray[np.uint8], given: argparse.Namespace
) -> float:
    """Return the images a second of a compiled network on a batch in the device's memory."""
    on_device = _on_device(batch, given.backend)
    size, rounds = len(batch), max(2, int(given.images) // len(batch))

    def compute() -> None:
        waits = [start(on_device) for _ in range(rounds)]
        waits[-1]()

    return rounds * size / _seconds(compute)


def _fine_tuning(name: str, given: argparse.Namespace) -> None:
    """Print steps a second of the project's loop and of Keras' on images in memory."""
    import keras

    from pipeline.backbones import build
    from pipeline.training import loop, optimization

    size = max(1, given.batch // 4)
    images = arrays.StoredArray(paths.RESIZED)
    rows = np.arange(min(len(images), STEPS * size))
    label = np.random.default_rng(0).integers(0, 2, len(rows))
    count = len(rows) // size

    def model() -> keras.Model:
        keras.utils.set_random_seed(0)
        if given.precision == "bfloat16":
            keras.config.set_dtype_policy("mixed_bfloat16")  # as `fine_tune` does
        extractor = build.extractor(build.network(name, given.size, False, None), name, None, "avg")
        keras.config.set_dtype_policy("float32")
        build.unfreeze_from(extractor, NETWORKS[name])
        head = loop.dense_head(extractor.output_shape[-1], [], 2)
        made = keras.Model(extractor.inputs, head(extractor.outputs[0]))
        optimization.compile_for(made, keras.optimizers.SGD(0.01))
        return made

    def batches() -> Iterator[optimization.Batch]:
        for at in range(0, count * size, size):
            yield images.read(at, at + size), label[at : at + size]

    def ours() -> None:
        train_epoch(batches(), count, lambda _: None)

    in_memory = images.read(0, count * size)

    def plain() -> None:
        other.fit(in_memory, label[: len(in_memory)], batch_size=size, shuffle=False, verbose=0)

    trained, other = model(), model()
    train_epoch = loop.epoch_trainer(trained)
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


def _memory_of_card(backend: str) -> str:
    """Return what was used at most, or nothing on a processor."""
    if backend == "jax":
        used = importlib.import_module("jax").local_devices()[0].memory_stats() or {}
        most = used.get("peak_bytes_in_use")
    else:
        tensorflow = importlib.import_module("tensorflow")
        gpus = tensorflow.config.list_logical_devices("GPU")
        used = tensorflow.config.experimental.get_memory_info(gpus[0].name) if gpus else {}
        most = used.get("peak")
    return f", card {most / 2**20:,.0f} MiB" if most else ""


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
