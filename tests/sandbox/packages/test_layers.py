"""Layers on disk: whole or not there, only below their place, and the oldest go first."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sandbox.nouns import Artifact
from sandbox.packages.layers import Layers, name_of


def test_a_layer_is_written_and_found(tmp_path: Path) -> None:
    layers = Layers(tmp_path / "l", 1000)
    assert layers.find("a") is None
    path = layers.add("a", [Artifact("x/y.py", b"1"), Artifact("z", b"\0")])
    assert layers.find("a") == path
    assert Path(path, "x/y.py").read_bytes() == b"1"
    assert (tmp_path / "l").stat().st_mode & 0o777 == 0o711
    assert Path(path, "x").stat().st_mode & 0o777 == 0o755
    assert layers.add("a", [Artifact("other", b"")]) == path  # the first one stays
    assert not Path(path, "other").exists()
    assert not list((tmp_path / "l").glob("new-*"))


@pytest.mark.parametrize("path", ["/etc/x", "../x", "a/../../x", "", "a\0b", "x" * 2000])
def test_paths_that_lead_elsewhere(path: str, tmp_path: Path) -> None:
    layers = Layers(tmp_path / "l", 1000)
    with pytest.raises(ValueError, match="holds the path"):
        layers.add("a", [Artifact("fine", b""), Artifact(path, b"owned")])
    assert layers.find("a") is None
    assert list((tmp_path / "l").iterdir()) == []


def test_the_least_recently_used_go_unless_in_use(tmp_path: Path) -> None:
    layers = Layers(tmp_path / "l", 250)
    for number, name in enumerate("abc"):
        layers.add(name, [Artifact("x", b"x" * 100)])
        os.utime(tmp_path / "l" / name, (number, number))
    with layers.using("b"):
        layers.add("d", [Artifact("x", b"x" * 100)])
    assert [name for name in "abcd" if layers.find(name)] == ["b", "d"]


def test_what_a_killed_one_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / "l" / "new-x").mkdir(parents=True)
    Layers(tmp_path / "l", 1000)
    assert list((tmp_path / "l").iterdir()) == []


def test_names() -> None:
    assert name_of(("a", "bc")) != name_of(("ab", "c"))
    assert len(name_of(("x",))) == 40
