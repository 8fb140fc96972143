"""What the documents say exists, exists: links lead somewhere, and references name every field, code and setting."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from ledger import problems, specs
from ledger.problems import Problem
from tests.support.upstreams.child import REPOSITORY
from tollgate.cli import COMMANDS

_DOCUMENTS = sorted([*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md")])
_MODELS = (specs.TierSpec, specs.CustomerSpec, specs.IssuerSpec, specs.UpstreamSpec, specs.RouteSpec)


def _name(document: Path) -> str:
    return str(document.relative_to(REPOSITORY))


@pytest.mark.parametrize("document", _DOCUMENTS, ids=_name)
def test_links_lead_to_files(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", document.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (document.parent / target).exists(), target


@pytest.mark.parametrize("model", _MODELS, ids=lambda model: model.__name__)
def test_the_reference_of_declarations_has_every_field(model: type[BaseModel]) -> None:
    text = (REPOSITORY / "docs" / "declaring.md").read_text(encoding="utf-8")
    assert [field for field in model.model_fields if f"`{field}`" not in text] == []


def test_the_list_of_errors_is_the_catalogue() -> None:
    text = (REPOSITORY / "docs" / "limits-and-headers.md").read_text(encoding="utf-8")
    table = "\n".join(line for line in text.splitlines() if re.match(r"\| \d{3}", line))
    listed = set(re.findall(r"`([a-z_]+)`", table.replace("`Allow`", "")))
    catalogue = {entry.code for entry in vars(problems).values() if isinstance(entry, Problem)}
    assert catalogue - listed == set()
    assert listed - catalogue == set()


def test_commands_that_are_mentioned_exist() -> None:
    known = {name for name, _ in COMMANDS}
    for document in _DOCUMENTS:
        mentioned = set(
            re.findall(r"(?:`|^)tollgate ([a-z]+(?:-[a-z]+)*)", document.read_text(encoding="utf-8"), re.MULTILINE)
        )
        assert mentioned <= known, document
