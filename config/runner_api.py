"""The code runner's part of the OpenAPI document (runner_api.yaml): answered by the sandbox, told by the admin plane.

The planes may not import each other, so what both must know is here: the sandbox's tests hold it against what it does. Pure,
but for reading the file.
"""

from __future__ import annotations

from copy import deepcopy
from importlib import resources
from typing import Any, Final

import yaml

_NOT_SAVED: Final = ("stdin", "userContext")


def runner_api() -> dict[str, Any]:
    """`{paths, components}` of OpenAPI 3.1; what refers to Problem needs that schema beside it."""
    text = resources.files("config").joinpath("runner_api.yaml").read_text(encoding="utf-8")
    found: dict[str, Any] = yaml.safe_load(text)
    for operations in found["paths"].values():
        for operation in operations.values():
            operation.setdefault("parameters", [])
    schemas = found["components"]["schemas"]
    saved = deepcopy(schemas["RunRequest"])
    for name in _NOT_SAVED:
        del saved["properties"][name]
    saved["properties"] |= {
        "name": {"type": "string", "maxLength": 100},
        "public": {"type": "boolean", "default": False},
    }
    schemas["InstantEndpointRequest"] = saved
    return found
