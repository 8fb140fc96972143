"""From a file's text to a Declaration, or to all that is wrong with it."""

from __future__ import annotations

from pydantic import ValidationError

from admin.declare.explain import explain
from admin.declare.faults import DeclarationError
from admin.declare.source import Source, read
from ledger.specs import Declaration


def load(text: str | bytes, filename: str) -> Declaration:
    """The declaration in a YAML (or JSON) text. Raises DeclarationError, which names every fault with its place."""
    return check(read(text, filename), filename)


def check(source: Source, filename: str) -> Declaration:
    """The declaration in a document that was read. Raises DeclarationError."""
    try:
        return Declaration.model_validate(source.value)
    except ValidationError as error:
        raise DeclarationError(filename, explain(error, Declaration, source.value, source.tree)) from None
