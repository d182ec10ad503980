"""Tables of a TOML file as classes: strict, frozen, and explained in words where they are wrong.

The run config and the cluster profile are made of these. What a key means is its field's
description; what is wrong with a value is said as a biologist would want to hear it.
"""

import json
import tomllib
from pathlib import Path
from typing import Any, Self, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from bgscale.errors import ConfigError, nearest


class Section(BaseModel):
    """A table of the TOML file: frozen, bounded, without unknown keys."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        protected_namespaces=(),
        allow_inf_nan=False,
    )

    @classmethod
    def from_dict(cls, values: dict[str, Any], *, origin: str = "config") -> Self:
        """Check `values`; unknown keys and values out of bounds raise `ConfigError`."""
        try:
            # as JSON, strictly: there "7" and true are no integers, but a list is a tuple
            return cls.model_validate_json(json.dumps(values, default=str), strict=True)
        except ValidationError as error:
            lines = [_explain(cls, e) for e in error.errors()]
            msg = f"{origin}: " + "; ".join(lines)
            raise ConfigError(msg) from None


def read_toml(path: Path, advice: str) -> dict[str, Any]:
    """Return the tables of a TOML file.

    Raises
    ------
    ConfigError
        No such file (`advice` says how to get one), or it is not TOML.
    """
    try:
        # Windows editors put a byte order mark before the text
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        msg = f"cannot read {path}: {error.strerror}; {advice}"
        raise ConfigError(msg) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        msg = f"{path} is not TOML: {error}"
        raise ConfigError(msg) from None


def as_toml(value: object) -> str:
    """Return a value as TOML writes it.

    Examples
    --------
    >>> as_toml({"seed": 1})
    '{ "seed" = 1 }'
    """
    if isinstance(value, dict):
        pairs = ", ".join(f"{json.dumps(key)} = {as_toml(entry)}" for key, entry in value.items())
        return f"{{ {pairs} }}" if pairs else "{}"
    # JSON's numbers, strings, booleans and lists of these are TOML's
    return json.dumps(value, ensure_ascii=False)


def _explain(model: type[BaseModel], error: Any) -> str:
    where, key = list(error["loc"]), ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        known = _keys_at(model, where[:-1])
        return f"unknown key '{key}'{nearest(str(where[-1]), known)}; known: {', '.join(known)}"
    if error["type"] == "missing":
        return f"'{key}' is missing"
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    if where[-1] == "[key]":
        return (
            f"{'.'.join(where[:-2])}: name {error['input']!r}; expected letters, digits, '_', '-' "
            "and '.', the first a letter or a digit"
        )
    wording = _EXPECTED.get(error["type"], error["msg"].removeprefix("Input should be "))
    expected = wording.format(**error.get("ctx", {}))
    return f"{key} = {as_toml(error['input'])}: expected {expected}"


_EXPECTED = {
    "greater_than_equal": "{ge} or more",
    "greater_than": "more than {gt}",
    "less_than_equal": "{le} or less",
    "less_than": "less than {lt}",
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "string_type": "a string",
    "string_too_short": "a string that is not empty",
    "tuple_type": "a list",
    "model_type": "a table",
    "dict_type": "a table",
    "too_short": "{min_length} or more of them",
}
"""What each kind of wrong value should have been, where pydantic's wording is for programmers."""


def _keys_at(model: type[BaseModel], where: list[Any]) -> list[str]:
    for part in where:
        if part in model.model_fields:
            annotation = model.model_fields[part].annotation
            # a table, or one that may be absent, or tables by name
            for inner in (annotation, *get_args(annotation)):
                if isinstance(inner, type) and issubclass(inner, BaseModel):
                    model = inner
    return list(model.model_fields)
