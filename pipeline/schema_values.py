"""Types of the values of `params.yaml`, each with one sentence per fault."""

import codecs
import reprlib
import unicodedata
from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WrapValidator


def distinct(names: list[str]) -> list[str]:
    if len(set(names)) < len(names):
        raise ValueError(f"expected each name once, got {names}; remove the repeated one")
    return names


def ascii_compatible(name: str) -> str:
    """Return the usual name of an encoding in which ASCII is ASCII."""
    samples = (b"\\x41\\u0041", b"xn--wgv71a", bytes(range(32, 127)))  # of escapes, idna, utf-16
    try:
        if all(sample.decode(name) == sample.decode("ascii") for sample in samples):
            return codecs.lookup(name).name
    except (LookupError, ValueError):
        pass
    raise ValueError(
        "expected null or an encoding of names in zips, such as gbk, cp932 or cp1251, got "
        f"{show(name)}; change it"
    )


def not_zero(values: list[float]) -> list[float]:
    """Return numbers to divide by, none of which is 0."""
    if 0 in values:
        raise ValueError(f"expected numbers other than 0, got {show(values)}; change it")
    return values


def show(value: object) -> str:
    """Return the repr of a value, shortened: a few lines of YAML can expand to gigabytes."""
    shorter = reprlib.Repr()
    shorter.maxlevel, shorter.maxlist, shorter.maxdict = 2, 4, 4
    shorter.maxstring = shorter.maxlong = shorter.maxother = 60
    try:
        return shorter.repr(value)
    except ValueError:  # Python refuses to write an integer of more than 4,300 digits
        return "a number of more than 4,300 digits"


def expected(words: str) -> WrapValidator:
    """Return a validator with one sentence in place of one per alternative of a type."""

    def check(value: object, validate: Callable[[object], object]) -> object:
        try:
            return validate(value)
        except ValueError:
            raise ValueError(f"expected {words}, got {show(value)}; change it") from None

    return WrapValidator(check)


Float = Annotated[float, Field(allow_inf_nan=False)]
Fraction = Annotated[Float, Field(ge=0, lt=1)]
NotNegative = Annotated[Float, Field(ge=0)]
Positive = Annotated[Float, Field(gt=0)]
Count = Annotated[int, Field(ge=1, lt=2**31)]
Folds = Annotated[int, Field(ge=2, le=100)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Text = Annotated[str, Field(min_length=1)]
Name = Annotated[Text, AfterValidator(lambda name: unicodedata.normalize("NFC", name))]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Pooling = Literal["avg", "max", "flatten", "predictions", "log_predictions"]
AnyPooling = Literal["avg", "max", "flatten", "cls", "mean", "cls_and_mean"]
Channels = Annotated[
    list[Float], Field(min_length=3, max_length=3), expected("[red, green, blue], three numbers")
]
Pixels = Annotated[int, Field(ge=8, le=4096)]
Precision = Literal["float32", "tf32", "bfloat16"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos", "box"]
Views = Annotated[int, Field(ge=1, le=64)]
# TensorFlow's oneDNN fails or crashes in bfloat16 at caps below AVX512_CORE.
WithoutBfloat16 = Literal["SSE41", "AVX", "AVX2", "AVX2_VNNI"]
Avx512 = Literal["AVX512_CORE", "AVX512_CORE_VNNI", "AVX512_CORE_BF16", "AVX512_CORE_AMX"]
LayerName = Annotated[
    str | None,
    expected("null or a layer's name"),
    BeforeValidator(  # runs first: [conv1] says what conv1 says
        lambda value: value[0] if isinstance(value, list) and len(value) == 1 else value
    ),
]
ClassWeights = Annotated[
    Literal["balanced"] | Annotated[list[Positive], Field(min_length=2)] | None,
    expected("null, balanced, or a list of positive numbers, one per class"),
]
Clip = Annotated[
    Literal["auto"] | Annotated[Float, Field(ge=0, lt=0.5)],
    expected("auto, or a number from 0 to below 0.5"),
]
Folders = Annotated[
    Annotated[list[Name], Field(min_length=1)],
    expected("a folder's name or a list of them"),
    BeforeValidator(lambda value: [value] if isinstance(value, str) else value),
]
LayersShown = Annotated[
    Annotated[int, Field(ge=1, le=100)] | Annotated[list[str], Field(min_length=1)],
    expected("a number of layers from 1 to 100, or a list of layer names"),
]
