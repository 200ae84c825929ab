"""Image backbones of KerasHub from presets: `config.json`, `image_converter.json`, weights.

A preset is data. One of `CLASSES` is built from numbers, texts and lists of them, the weights are
read as those of any other network, and of the image converter only scale and offset are taken, as
`resize` has resized the images.
"""

import hashlib
import importlib
import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import keras

from pipeline.backbones import build, keras_private, weights_file
from pipeline.runtime import atomic_files
from pipeline.runtime.errors import UserError, of_the_machine

CONFIG, CONVERTER, WEIGHTS = FILES = ("config.json", "image_converter.json", "model.weights.h5")
CLASSES = {  # of keras_hub.models: the number of tokens before the patches
    **dict.fromkeys(
        (
            *("CSPNetBackbone", "DenseNetBackbone", "EfficientNetBackbone", "HGNetV2Backbone"),
            *("MiTBackbone", "MobileNetBackbone", "ResNetBackbone", "SwinTransformerBackbone"),
            *("VGGBackbone", "XceptionBackbone", "SigLIPVisionEncoder"),
        ),
        0,
    ),
    **dict.fromkeys(("ViTBackbone", "DINOV2Backbone", "DINOV3Backbone", "CLIPVisionEncoder"), 1),
    "DeiTBackbone": 2,  # the second one is distillation's
}
OWN = ("name", "trainable", "dtype")  # keys of a config that are not the class' own
SIZES = ("image_shape", "input_shape")
UNSCALED = {"scale": 1.0, "offset": 0.0}  # what a converter without them does
Plain = bool | int | float | str | list[Any] | None


class Preset(NamedTuple):
    """What is built, and the images that it was trained on."""

    kind: str  # one of `CLASSES`
    config: dict[str, Plain]
    scaling: build.Scaling  # of values from 0 to 255

    @property
    def tokens(self) -> int:
        """The number of tokens before the patches; 0 for maps and vectors."""
        first = CLASSES[self.kind]
        if self.config.get("use_class_token") is False:
            first = 0
        return first + int(self.config.get("num_register_tokens") or 0)  # type: ignore[arg-type]

    @property
    def size(self) -> int | None:
        """Height and width of the images that it was trained on, if the preset says so."""
        shapes = [shape for key in SIZES if isinstance(shape := self.config.get(key), list)]
        return next((one for shape in shapes for one in shape if isinstance(one, int)), None)

    def network(self, size: int | None, where: str) -> keras.Model:
        """Build the network for images of `size` pixels, None for its own, with random weights."""
        config = dict(self.config)
        for key in SIZES:
            if size and key in config:
                config[key] = [size, size, build.CHANNELS]
        hub = _hub(where)
        try:
            return getattr(hub.models, self.kind)(**config)
        except (TypeError, ValueError, AttributeError, ArithmeticError, LookupError) as error:
            raise UserError(
                f"{where}: expected a preset that this KerasHub builds"
                f"{f' for images of {size} pixels' if size else ''}, got "
                f"{' '.join(str(error).split())[:160]!r}; change its size or take another preset"
            ) from None


def find(where: str, name: str) -> Path:
    """Return the folder of a preset: a folder, or what KerasHub downloads for a name."""
    if Path(name).is_dir():
        return Path(name)
    _hub(where)
    try:
        files = [keras_private.preset_file(name, file) for file in FILES]
    except Exception as error:  # of kagglehub, huggingface_hub, requests and KerasHub
        reason = " ".join(str(error).split())[:160]
        raise UserError(
            f"{where}: expected a folder, or a preset that KerasHub downloads, got {name!r} "
            f"({reason}); connect once, or name a folder with {', '.join(FILES)}"
        ) from None
    return Path(files[0]).parent


def digest(folder: Path, where: str) -> str:
    """Return the sha256 of what `sha256sum` prints for the three files of a preset."""
    for file in FILES:
        if not (folder / file).is_file():
            raise UserError(
                f"{where}: expected a preset, a folder with {', '.join(FILES)}, got none of "
                f"{file!r} in {str(folder)!r}; name another folder"
            )
    lines = (f"{atomic_files.sha256(folder / file)}  {file}\n" for file in FILES)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def read(folder: Path, where: str) -> Preset:
    """Read and check a preset without its weights; a `UserError` for anything but an image network.

    `where` names the key of params.yaml.
    """
    config, converter = (_parsed(folder / file, where) for file in (CONFIG, CONVERTER))
    kind = str(config.get("class_name"))
    if config.get("registered_name") != f"keras_hub>{kind}" or kind not in CLASSES:
        raise UserError(
            f"{where}: expected a preset of one of {', '.join(sorted(CLASSES))}, got "
            f"{str(config.get('registered_name'))[:80]!r}; take an image backbone"
        )
    values = {key: value for key, value in config["config"].items() if key not in OWN}
    for key, value in values.items():
        if not _is_plain(value):
            raise UserError(
                f"{where}: expected numbers, texts and lists of them in {CONFIG}, got an object in "
                f"{key!r}; take a preset of one network"
            )
    options = converter.get("config", {})
    scale, offset = (
        _per_channel(options.get(key), otherwise) for key, otherwise in UNSCALED.items()
    )
    if scale is None or offset is None:
        raise UserError(
            f"{where}: expected scale and offset as a number or three in {CONVERTER}, got "
            f"{str(options.get('scale'))[:40]!r} and {str(options.get('offset'))[:40]!r}; "
            "correct that file"
        )
    return Preset(kind, values, build.Scaling(scale, offset))


def load(preset: Preset, size: int | None, weights: Path, where: str) -> keras.Model:
    """Return the network with the weights of a file."""
    model = preset.network(size, where)
    expected = f"the weights of {preset.kind}" + (f" at {size} pixels" if size else "")
    key = where.rpartition(" ")[2]
    remedy = f"change {key}, or size beside it"
    weights_file.load(model, weights, expected, remedy)
    return model


def write(preset: Preset, path: Path) -> None:
    """Write a preset, without its weights, for `stored`."""
    path.write_text(json.dumps(preset, indent=2) + "\n", encoding="utf-8", newline="\n")


def stored(path: Path) -> Preset:
    """Read what `write` wrote."""
    kind, config, scaling = json.loads(path.read_text(encoding="utf-8"))
    return Preset(kind, config, build.Scaling(*scaling))


def _per_channel(value: Any, otherwise: float) -> list[float] | None:
    values = [otherwise] if value is None else value if isinstance(value, list) else [value]
    numbers = [one for one in values if isinstance(one, int | float) and math.isfinite(one)]
    if len(numbers) != len(values) or len(values) not in (1, build.CHANNELS):
        return None
    return [float(one) for one in numbers] * (build.CHANNELS // len(numbers))


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def _parsed(path: Path, where: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, dict) and isinstance(content.get("config"), dict):
            return content
        raise ValueError("no object with a config")
    except (OSError, ValueError, RecursionError) as error:
        if of_the_machine(error, path):
            raise
        raise UserError(
            f"{where}: expected JSON that KerasHub has saved in {path.name}, got "
            f"{' '.join(str(error).split())[:100]!r}; get the file again"
        ) from None


def _hub(where: str) -> Any:
    try:
        return importlib.import_module("keras_hub")
    except ImportError as error:
        raise UserError(
            f"{where}: expected the package keras-hub, got {' '.join(str(error).split())!r}; run "
            "`pip install 'pipeline[hub]'`, or take an ONNX file (docs/backbones.md)"
        ) from None
