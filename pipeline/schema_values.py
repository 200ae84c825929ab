"""Types of the values of `params.yaml`: numbers, names and choices, with one sentence per fault."""

import re
import reprlib
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StrictInt, StrictStr, TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError


def _number(value: object) -> object:
    """Read `1e-05`, which DVC writes and PyYAML takes for a string; refuse true and false."""
    if isinstance(value, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", value):
        return float(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    raise PydanticCustomError("float_type", "")


def distinct(names: list[str]) -> list[str]:
    if len(set(names)) < len(names):
        raise ValueError(f"expected each name once, got {names}; remove the repeated one")
    return names


def show(value: object) -> str:
    """Return the repr of a value, shortened: a few lines of YAML can expand to gigabytes."""
    shorter = reprlib.Repr()
    shorter.maxlevel, shorter.maxlist, shorter.maxdict = 2, 4, 4
    shorter.maxstring = shorter.maxlong = shorter.maxother = 60
    try:
        return shorter.repr(value)
    except ValueError:  # Python refuses to write an integer of more than 4,300 digits
        return "a number of more than 4,300 digits"


def _one_of_kinds(expected: str, *kinds: Any) -> BeforeValidator:
    """Return a validator that tries each kind and has one sentence if none of them fits."""

    def check(value: object) -> object:
        for kind in kinds:
            try:
                return TypeAdapter(kind).validate_python(value)
            except ValidationError:
                continue
        raise ValueError(f"expected {expected}, got {show(value)}; change it")

    return BeforeValidator(check)


Float = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]
Fraction = Annotated[Float, Field(ge=0, lt=1)]
NotNegative = Annotated[Float, Field(ge=0)]
Positive = Annotated[Float, Field(gt=0)]
Count = Annotated[StrictInt, Field(ge=1, lt=2**31)]
Seed = Annotated[StrictInt, Field(ge=0, lt=2**31)]
Text = Annotated[StrictStr, Field(min_length=1)]
ClassWeights = Annotated[
    str | list[float] | None,
    _one_of_kinds(
        "null, balanced, or a list of positive numbers, one per class",
        Literal["balanced"] | None,
        Annotated[list[Positive], Field(min_length=2)],
    ),
]
Clip = Annotated[
    Literal["auto"] | float,
    _one_of_kinds(
        "auto, or a number from 0 to below 0.5",
        Literal["auto"],
        Annotated[Float, Field(ge=0, lt=0.5)],
    ),
]
LayerName = Annotated[
    str | None,
    _one_of_kinds("null or a layer's name", StrictStr | None),
    BeforeValidator(  # runs first: [conv1] says what conv1 says
        lambda value: value[0] if isinstance(value, list) and len(value) == 1 else value
    ),
]
LayersShown = Annotated[
    int | list[str],
    _one_of_kinds(
        "a number of layers from 1 to 100, or a list of layer names",
        Annotated[StrictInt, Field(ge=1, le=100)],
        Annotated[list[StrictStr], Field(min_length=1)],
    ),
]
