"""OpenVINO on arrays that lie in memory already: as fast as a network gets here.

    python -m benchmarks.contenders.openvino_alone MODEL.xml f32|bf16 IMAGES

Nothing is decoded, preprocessed or kept. Of a few batch sizes, the one that a short trial finds
fastest is measured.
"""

import math
import sys
import time

import numpy as np

sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # no reports to its makers
import openvino  # noqa: E402

BATCH_SIZES = (1, 8)
TRIAL = 16  # images


def queue(model: str, precision: str, batch_size: int) -> openvino.AsyncInferQueue:
    """As many requests at a time as OpenVINO wants for the most images a second."""
    core = openvino.Core()
    network = core.read_model(model)
    network.reshape([batch_size, *list(network.inputs[0].partial_shape)[1:]])
    settings = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "THROUGHPUT"}
    compiled = core.compile_model(network, "CPU", settings)
    found = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    if found != precision:
        raise SystemExit(f"this processor has no {precision}, OpenVINO took {found}")
    return openvino.AsyncInferQueue(compiled)


def images_per_second(requests: openvino.AsyncInferQueue, batches: int) -> float:
    """Of one batch of random pixels, given in `batches` times."""
    shape: tuple[int, ...] = tuple(requests[0].model_inputs[0].shape)
    images = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
    started = time.perf_counter()
    for _ in range(batches):
        requests.start_async([images])
    requests.wait_all()
    return batches * shape[0] / (time.perf_counter() - started)


def main(model: str, precision: str, count: str) -> None:
    queues = {size: queue(model, precision, size) for size in BATCH_SIZES}
    for requests in queues.values():
        images_per_second(requests, len(requests))  # the first run of each request is slow
    trials = {
        size: images_per_second(requests, math.ceil(TRIAL / size))
        for size, requests in queues.items()
    }
    fastest = max(trials, key=lambda size: trials[size])
    batches = math.ceil(int(count) / fastest)
    rate = images_per_second(queues[fastest], batches)
    images = batches * fastest
    print(f"openvino_alone, batches of {fastest}: {images} img in {images / rate:.6f} s")


if __name__ == "__main__":
    main(*sys.argv[1:])
