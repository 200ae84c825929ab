"""Benchmark 1: pixels to features on disk, by three backbones."""

import shutil
from collections.abc import Callable
from pathlib import Path

from benchmarks import photos, printed
from benchmarks.measure import ROOT, Contender, Outcome, interleave, python, run
from benchmarks.project import (
    NO_ROW_CACHE,
    Project,
    command,
    of_labelled,
    output,
    remove_output,
    run_stage,
)
from benchmarks.settings import Settings
from benchmarks.tables import counted, ratio, spread, table

TITLE = "Extraction of features"

LOOP = "plain Keras loop, float32"
LIMITS = {
    "float32": "OpenVINO alone, float32",
    "bfloat16": "OpenVINO alone, bfloat16",
}
OURS = [(engine, precision) for engine in ("keras", "openvino") for precision in LIMITS]
ENGINES = {"keras": "Keras", "openvino": "OpenVINO"}


def measure(folder: Path, settings: Settings, say: Callable[[str], object]) -> str:
    """The section's tables, one a backbone."""
    taken = photos.find()
    body = [
        f"{taken.words.capitalize()}, {settings.size} px, {counted(settings.rounds, 'round')}. "
        "Ours is the stage `extract`, from `resized.zarr`, with the row cache off, by 32 with "
        "Keras, with OpenVINO by 1 in float32 and by 2 in bfloat16. The plain loop "
        "(`load_img`, `model.predict` by 32, `np.save`) also decodes and resizes the photos; "
        "OpenVINO alone works on arrays in memory and keeps nothing: the limit. Weights are "
        f"trained ones for {', '.join(taken.weights) or 'none of them'}, random for the others.\n"
    ]
    for backbone, count in settings.extraction.items():
        say(f"{backbone}: preparing {count} images")
        place = folder / backbone
        contenders = _contenders(place, taken, backbone, count, settings.size)
        outcomes = interleave(contenders, settings.rounds, say)
        body.append(f"\n### {backbone}, {count:,} images\n\n{_table(outcomes, count)}")
        shutil.rmtree(place)
    return "".join(body)


def _contenders(
    folder: Path, taken: photos.Photos, backbone: str, count: int, size: int
) -> list[Contender]:
    """Prepare everything that is not measured: photos unpacked and resized, weights, models."""
    project = of_labelled(folder, taken, backbone, count, {"resize.size": size})
    shutil.unpack_archive(folder / "train.zip", folder / "unpacked")
    for stage in ("split", "resize", "fetch_weights"):
        run_stage(project, stage, backbone, NO_ROW_CACHE)
    weights = output(project, "fetch_weights", backbone)
    model = folder / "model.xml"

    def export() -> None:
        if not model.exists():
            words = python("benchmarks.contenders.openvino_export", backbone, weights, size, model)
            run(words, ROOT)

    return [
        Contender(
            LOOP,
            python(
                "benchmarks.contenders.keras_loop",
                *(backbone, weights, size, folder / "unpacked", folder / "features.npy"),
            ),
        ),
        *(_ours(project, backbone, engine, precision) for engine, precision in OURS),
        *(
            Contender(
                name,
                python("benchmarks.contenders.openvino_alone", model, short, count),
                needs=["openvino"],
                before=export,
            )
            for name, short in zip(LIMITS.values(), ("f32", "bf16"), strict=True)
        ),
    ]


def _ours(project: Project, backbone: str, engine: str, precision: str) -> Contender:
    def set_up() -> None:
        project.change({"extract.engine": engine, "extract.precision": precision})
        remove_output(project, "extract", backbone)

    return Contender(
        f"ours, {ENGINES[engine]}, {precision}",
        command("extract", backbone),
        project.folder,
        NO_ROW_CACHE,
        needs=["openvino"] if engine == "openvino" else [],
        before=set_up,
    )


def _table(outcomes: dict[str, Outcome], count: int) -> str:
    whole = {
        name: [count / seconds for seconds in outcome.seconds] for name, outcome in outcomes.items()
    }
    alone = {
        name: [printed.images_per_second(run.printed) for run in outcome.runs]
        for name, outcome in outcomes.items()
    }
    rows = []
    for name, outcome in outcomes.items():
        if outcome.fault:
            rows.append([name, outcome.fault, "", "", "", "", ""])
            continue
        limit = LIMITS["bfloat16" if name.endswith("bfloat16") else "float32"]
        at_limit = name in LIMITS.values()
        rows.append(
            [
                name,
                "-" if at_limit else spread(whole[name]),
                "-" if at_limit else ratio(whole[name], whole[LOOP]),
                spread(alone[name]),
                ratio(alone[name], alone[LOOP]),
                ratio(alone[name], alone[limit]),
                spread([peak / 2**20 for peak in outcome.peak_bytes]),
            ]
        )
    return table(
        [
            "",
            "img/s, whole process",
            "to the plain loop",
            "img/s, the pass alone",
            "to the plain loop",
            "to OpenVINO alone, same precision",
            "MiB",
        ],
        rows,
    )
