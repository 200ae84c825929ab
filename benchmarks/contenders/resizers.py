"""Photos in a zip to square pixels, one after the other, by one library.

    python -m benchmarks.contenders.resizers NAME PHOTOS.zip COUNT SIZE CORES

Each way is what its documentation shows first; only the channels are put into the order RGB. The
process is held to CORES cores before a library is loaded, and the libraries' threads with it.
"""

import functools
import io
import os
import sys
import time
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

WARM_UP = 8  # photos


def hold_to(cores: int) -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    for name in ("OMP_NUM_THREADS", "VIPS_CONCURRENCY"):
        os.environ[name] = str(cores)
    for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
        os.environ[name] = str(cores)


def ours(size: int) -> Callable[[bytes], Any]:
    from pipeline.images import decode, resize

    enough = resize.min_side(size, "bicubic")

    def pixels(content: bytes) -> Any:
        found = decode.decode(content, enough)
        return resize.resize(
            found.image, size, "squash", "bicubic", found.original_size, found.factor
        )

    return pixels


def pillow(size: int) -> Callable[[bytes], Any]:
    import numpy as np
    from PIL import Image

    return lambda content: np.asarray(
        Image.open(io.BytesIO(content)).convert("RGB").resize((size, size))
    )


def opencv(size: int, filter_: str = "INTER_LINEAR") -> Callable[[bytes], Any]:
    import cv2
    import numpy as np

    cv2.setNumThreads(1)
    kind = getattr(cv2, filter_)

    def pixels(content: bytes) -> Any:
        image: Any = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
        fitted: Any = cv2.resize(image, (size, size), interpolation=kind)
        return cv2.cvtColor(fitted, cv2.COLOR_BGR2RGB)

    return pixels


def vips(size: int) -> Callable[[bytes], Any]:
    import pyvips

    return lambda content: pyvips.Image.thumbnail_buffer(
        content, size, height=size, size="force"
    ).numpy()


def tensorflow(size: int) -> Callable[[bytes], Any]:
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec([], tf.string)])  # type: ignore[untyped-decorator]
    def pixels(content: Any) -> Any:
        return tf.image.resize(tf.io.decode_jpeg(content, channels=3), [size, size])

    return lambda content: pixels(content).numpy()


RESIZERS: dict[str, Callable[[int], Callable[[bytes], Any]]] = {
    "ours": ours,
    "pillow": pillow,
    "opencv": opencv,
    "opencv_area": functools.partial(opencv, filter_="INTER_AREA"),
    "vips": vips,
    "tensorflow": tensorflow,
}


def through(pixels: Callable[[bytes], Any], archive: zipfile.ZipFile, share: range) -> None:
    names = archive.namelist()
    for number in share:
        pixels(archive.read(names[number % len(names)]))


def main(name: str, photos: str, count: str, size: str, cores: str) -> None:
    hold_to(int(cores))
    pixels = RESIZERS[name](int(size))
    with zipfile.ZipFile(photos) as archive:
        for member in archive.namelist()[:WARM_UP]:
            if pixels(archive.read(member)).shape != (int(size), int(size), 3):
                raise SystemExit(f"{name}: expected pixels ({size}, {size}, 3)")
        shares = [range(first, int(count), int(cores)) for first in range(int(cores))]
        started = time.perf_counter()
        with ThreadPoolExecutor(int(cores)) as pool:  # a share a thread, as in the stage
            list(pool.map(functools.partial(through, pixels, archive), shares))
        print(f"{name}: {count} img in {time.perf_counter() - started:.6f} s")


if __name__ == "__main__":
    main(*sys.argv[1:])
