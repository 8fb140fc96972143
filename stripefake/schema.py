"""What a request may say, by the types of the installed `stripe` library: the one source of truth for both sides.

`check` turns a tree of strings (a form) or of JSON values into typed values, or raises Refusal as Stripe would. The
library's enums are open (`Literal[…] | str`); here they are closed: a value it does not know is refused.
"""

from __future__ import annotations

import importlib
import re
import sys
import types
import typing
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Any, Final, Literal, NotRequired, Required, Union, get_args, get_origin, get_type_hints

from stripe._request_options import RequestOptions
from stripe._stripe_context import StripeContext
from typing_extensions import is_typeddict

from stripefake.errors import Refusal

_INTEGER: Final = re.compile(r"-?\d{1,19}", re.ASCII)
_SHOWN: Final = 12
_OPTIONS: Final = frozenset(RequestOptions.__annotations__)


def params_type(name: str) -> Any:
    """The library's type of this name, such as `billing.MeterEventCreateParams`. Raises LookupError."""
    package, _, cls = f"stripe.params.{name}".rpartition(".")
    try:
        return getattr(importlib.import_module(package), cls)
    except (ImportError, AttributeError) as error:
        raise LookupError(f"the installed stripe library has no {name}") from error


@lru_cache(maxsize=512)
def fields_of(cls: Any) -> dict[str, tuple[Any, bool]]:
    """The fields of one of its types: name → (type, is required). Request options are none."""
    module = vars(sys.modules[cls.__module__])
    names = {**module, "StripeContext": StripeContext, "Mapping": typing.Mapping}
    hints = get_type_hints(cls, globalns=names, include_extras=True)
    found = {}
    for name, hint in hints.items():
        is_required = True
        if get_origin(hint) in (NotRequired, Required):
            is_required = get_origin(hint) is Required
            hint = get_args(hint)[0]
        found[name] = (hint, is_required)
    is_request = found.keys() >= _OPTIONS  # whole requests carry options beside parameters
    return {name: field for name, field in found.items() if not (is_request and name in _OPTIONS)}


def check(cls: Any, given: Any, path: str = "") -> dict[str, Any]:
    """`given` as a value of this TypedDict. Raises Refusal for whatever does not belong there."""
    if not isinstance(given, dict):
        raise Refusal("Invalid object", param=path, code="parameter_invalid_object")
    fields = fields_of(cls)
    for name in given:
        if name not in fields:
            where = _join(path, name)
            raise Refusal(f"Received unknown parameter: {where}", param=where, code="parameter_unknown")
    for name, (_, is_required) in fields.items():
        if is_required and name not in given:
            where = _join(path, name)
            raise Refusal(f"Missing required param: {where}.", param=where, code="parameter_missing")
    return {name: _value(fields[name][0], value, _join(path, name)) for name, value in given.items()}


def _value(hint: Any, given: Any, path: str) -> Any:
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return _one_of(get_args(hint), given, path)
    if origin is Literal:
        return _literal(get_args(hint), given, path)
    if origin is list:
        return _list(get_args(hint)[0], given, path)
    if origin is dict:
        if not isinstance(given, dict):
            raise Refusal(f"Invalid object: {path}", param=path, code="parameter_invalid_object")
        return {key: _value(get_args(hint)[1], value, f"{path}[{key}]") for key, value in given.items()}
    if is_typeddict(hint):
        return check(hint, given, path)
    return _scalar(hint, given, path)


def _one_of(options: tuple[Any, ...], given: Any, path: str) -> Any:
    literals = [value for option in options if get_origin(option) is Literal for value in get_args(option)]
    rest = [option for option in options if get_origin(option) is not Literal and not _is_library_object(option)]
    if given in literals and isinstance(given, str):
        return given
    if any(literals) and str in rest:  # an open enum: closed here
        rest.remove(str)
    failure: Refusal | None = None
    for option in sorted(rest, key=lambda o: o is str):  # text takes anything: last
        try:
            return _value(option, given, path)
        except Refusal as refusal:
            failure = failure if failure is not None and is_typeddict(option) is False else refusal
    if failure is not None and not literals:
        raise failure
    if isinstance(given, dict) and failure is not None:
        raise failure
    return _literal(tuple(literals), given, path)


def _is_library_object(option: Any) -> bool:
    return getattr(get_origin(option) or option, "__name__", "") in ("UntypedStripeObject", "NoneType")


def _literal(allowed: tuple[Any, ...], given: Any, path: str) -> Any:
    if given in allowed:
        return given
    values = [str(value) for value in allowed if value != ""]
    wanted = ", ".join(values[:_SHOWN]) + (", …" if len(values) > _SHOWN else "")
    raise Refusal(f"Invalid {path}: must be one of {wanted}", param=path, code="parameter_invalid_enum")


def _list(item: Any, given: Any, path: str) -> list[Any]:
    if isinstance(given, dict) and all(key.isdigit() for key in given):
        given = [given[key] for key in sorted(given, key=int)]
    if not isinstance(given, list):
        raise Refusal(f"Invalid array: {path}", param=path, code="parameter_invalid_array")
    return [_value(item, value, f"{path}[{number}]") for number, value in enumerate(given)]


def _scalar(hint: Any, given: Any, path: str) -> Any:
    if hint is Any or hint is object:
        return given
    if isinstance(given, dict | list):
        raise Refusal(f"Invalid string: {path}", param=path, code="parameter_invalid_string")
    text = "true" if given is True else "false" if given is False else str(given)
    if hint is bool:
        if text in ("true", "false"):
            return text == "true"
        raise Refusal(f"Invalid boolean: {text}", param=path, code="parameter_invalid_boolean")
    if hint is int:
        if _INTEGER.fullmatch(text):
            return int(text)
        raise Refusal(f"Invalid integer: {text}", param=path, code="parameter_invalid_integer")
    if hint in (float, Decimal):
        try:
            number = Decimal(text)
        except InvalidOperation:
            number = Decimal("NaN")
        if not number.is_finite():
            raise Refusal(f"Invalid decimal: {text}", param=path, code="parameter_invalid_decimal")
        return number if hint is Decimal else float(number)
    return text


def _join(path: str, name: str) -> str:
    return f"{path}[{name}]" if path else name
