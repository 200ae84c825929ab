"""Files of a frozen network in OpenVINO's format: the same bytes on every run.

A folder has the graph, its weights, and the number of features with the sha256 of both files.
"""

import importlib
import json
from pathlib import Path
from typing import Any

from pipeline.runtime import atomic_files

GRAPH, WEIGHTS, ABOUT = "network.xml", "network.bin", "network.json"


def for_any_number(graph: Any, pixels: int) -> None:
    """Let a graph take any number of images; a RuntimeError if it is made for one at a time."""
    for count in (2, -1):  # the last is kept
        graph.reshape([count, pixels, pixels, 3])


def write(graph: Any, folder: Path) -> None:
    """Write OpenVINO's graph from images to features (n, d) into an existing folder."""
    graph.set_friendly_name("network")
    for number, node in enumerate(graph.get_ordered_ops()):  # names count models of the process
        node.set_friendly_name(f"{node.get_type_name()}_{number}")
        about = node.get_rt_info()
        for key in [key for key in about if key.startswith("fused_names")]:  # names, too
            del about[key]
        for output in node.outputs():
            output.get_tensor().set_names(set())
    library = importlib.import_module("openvino")
    library.serialize(graph, str(folder / GRAPH), str(folder / WEIGHTS))
    described = {
        "features": graph.outputs[0].partial_shape[1].get_length(),
        "sha256": {name: atomic_files.sha256(folder / name) for name in (GRAPH, WEIGHTS)},
    }
    text = json.dumps(described, indent=2, sort_keys=True)
    (folder / ABOUT).write_text(f"{text}\n", encoding="utf-8", newline="\n")


def leave_out(folder: Path) -> None:
    """Create the folder of a network that is not wanted."""
    folder.mkdir()
    (folder / ABOUT).write_text("{}\n", encoding="utf-8")
