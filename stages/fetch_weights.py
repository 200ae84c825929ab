"""Stage `fetch_weights`: download, read or draw a backbone's weights, and write them as a file.

With `extract.engine: openvino` it also converts the network that extracts features to OpenVINO's
format, with batch norms folded, preprocessing and pooling inside; else its folder holds `{}`. Of an
ONNX file there is only this network.

The digest of the first download is recorded in `data/weights.sha256`, to be committed, and another
download is refused later: Keras publishes no hash for MobileNets.
"""

import sys
from pathlib import Path

from pipeline import config, paths
from pipeline.backbones import keras_setup, named_file, onnx_file, openvino_files
from pipeline.paths import WEIGHT_DIGESTS as PINS
from pipeline.runtime import atomic_files
from pipeline.runtime.errors import UserError
from pipeline.schema import OnnxFile, Preset
from pipeline.stage import stage
from pipeline.storage import sealed_files


@stage
def main(backbone: str) -> None:
    """Get the weights, check them, and save them in Keras's format."""
    params, name = config.read(), backbone
    wanted = config.require_backbone(params, name)
    if isinstance(wanted, OnnxFile):
        _convert_onnx(name, wanted, params.resize.size)
        return
    keras_setup.start(params.compute.backend, threads=None, instruction_set=None)
    from pipeline.backbones import build, from_params, preset, weights

    described = None
    if isinstance(wanted, Preset):
        where = f"params.yaml: backbones.{name}.path"
        source = preset.find(where, wanted.path)
        _require_same(name, wanted, preset.digest(source, where))
        described = preset.read(source, where)
        model = preset.load(described, None, source / preset.WEIGHTS, where)
    elif wanted.weights == "imagenet":
        remedy = f"connect once, or set backbones.{name} to `weights: file`, with path and sha256"
        top = wanted.include_top
        path = weights.fetch(weights.published(name, top), f"fetch_weights {name}", remedy)
        model = build.network(name, None, top, path)
        _check_pin(f"{name}-top" if top else name, weights.digest(model))
    elif wanted.weights == "file":
        path = Path(str(wanted.path))
        model = weights.from_file(name, wanted.include_top, path, str(wanted.sha256))
    else:
        model = weights.random(name, wanted.include_top, wanted.seed or 0)
    with (
        atomic_files.replacing(paths.weights(name)) as partial,
        atomic_files.replacing(paths.network(name)) as folder,
    ):
        model.save_weights(partial)
        sealed_files.seal(partial)
        del model  # 0.5 GB for the largest networks, which conversion holds several times
        if params.extract.engine == "openvino":
            which = params, name, params.resize.size, partial
            extractor = from_params.extractor(*which, fold_for="float32", described=described)
            try:
                weights.convert(extractor, folder)
            except (NotImplementedError, RuntimeError, TypeError, ValueError) as error:
                reason = " ".join(str(error).split())[:120]
                raise UserError(
                    "params.yaml: extract.engine: expected keras, as OpenVINO cannot run "
                    f"{name}, got 'openvino' ({reason}); change it"
                ) from error
        else:
            openvino_files.leave_out(folder)
        if described:
            preset.write(described, folder / paths.preset(name).name)


def _require_same(name: str, wanted: Preset, digest: str) -> None:
    """Compare a preset with its `sha256`; without one, with the first download."""
    if wanted.sha256 is None:
        _check_pin(f"{name}-preset", digest)
    elif wanted.sha256 != digest:
        raise UserError(
            f"params.yaml: backbones.{name}.sha256: expected that of {wanted.path}, {digest}, got "
            f"{wanted.sha256}; get the right preset, or correct the hash if you trust this one"
        )


def _convert_onnx(name: str, wanted: OnnxFile, pixels: int) -> None:
    """Write the network; the weights are in it, and their file stays empty."""
    content = named_file.require(name, Path(wanted.path), wanted.sha256).read_bytes()
    with (
        atomic_files.replacing(paths.weights(name)) as partial,
        atomic_files.replacing(paths.network(name)) as folder,
    ):
        partial.touch()
        sealed_files.seal(partial)
        try:
            onnx_file.convert(name, wanted, content, pixels, folder)
        except UserError:
            raise
        except Exception:
            atomic_files.require_room(folder / "probe", 2 * len(content) + 2**20)
            raise


def _check_pin(name: str, digest: str) -> None:
    """Compare a download with the first one of that name, or record it as the first."""
    lines = PINS.read_text(encoding="utf-8").splitlines() if PINS.exists() else []
    pins: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        if len(words := line.split()) != 2:
            raise UserError(
                f"{PINS} line {number}: expected a digest and a name, got {line!r}; correct or "
                "remove that line"
            )
        pins[words[1]] = words[0]
    if name not in pins:
        print(f"fetch_weights: recorded the digest of {name} in {PINS}; commit that file")
        pins[name] = digest
        atomic_files.write_text(PINS, "".join(f"{pins[key]}  {key}\n" for key in sorted(pins)))
    elif pins[name] != digest:
        raise UserError(
            f"fetch_weights {name}: expected the weights recorded in {PINS} ({pins[name]}), got "
            f"others ({digest}); remove the download, or its line in {PINS} if you trust it"
        )


if __name__ == "__main__":
    sys.exit(main())
