"""git over smart HTTP with the key in http.extraHeader: clone and push through the gateway are what they are directly.

The repository has more refs than fit an uncompressed request (so git sends gzip bodies) and a pack of over 2 MiB; the
push is larger than http.postBuffer, so git sends it chunked after a probe. Bugs in body handling show here first.
"""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.e2e.conftest import Door, Origins

_REFS = 80


@pytest.fixture(scope="session")
def git(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Runs git with an author and without this machine's configuration; fails with what it printed."""
    who = {f"GIT_{role}_{what}": "e2e@example.com" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    clean = {"PATH": os.environ["PATH"], "HOME": str(tmp_path_factory.mktemp("home")), "GIT_CONFIG_NOSYSTEM": "1"}
    environment = {**clean, **who, "GIT_TERMINAL_PROMPT": "0"}

    def run(*arguments: str | Path, cwd: Path | None = None) -> str:
        done = subprocess.run(
            ["git", *map(str, arguments)], cwd=cwd, env=environment, capture_output=True, timeout=60, check=False
        )
        assert done.returncode == 0, f"git {' '.join(map(str, arguments))}\n{done.stderr.decode(errors='replace')}"
        return done.stdout.decode()

    return run


@pytest.fixture(scope="session")
def repository(origins: Origins, git: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of a bare repository that the git upstream serves."""
    work = tmp_path_factory.mktemp("seed")
    git("init", "-q", "-b", "main", work)
    noise = random.Random(1)
    for number in range(3):
        (work / f"noise-{number}").write_bytes(noise.randbytes(1_000_000))
        git("add", ".", cwd=work)
        git("commit", "-q", "-m", f"noise {number}", cwd=work)
    for number in range(_REFS):
        git("commit", "-q", "--allow-empty", "-m", f"ref {number}", cwd=work)
        git("branch", f"topic/{number:03}", cwd=work)
    git("clone", "-q", "--bare", work, origins.git_root / "seed.git")
    return "seed.git"


@pytest.fixture
def git_doors(origins: Origins, through: Callable[[str], Door]) -> tuple[Door, Door]:
    """The git upstream, directly and through the gateway with the key as a bearer token."""
    door = through("/git")
    return Door("direct", origins.git), replace(door, headers={"Authorization": f"Bearer {door.headers['X-API-Key']}"})


def _identified(door: Door) -> list[str]:
    return [part for name, value in door.headers.items() for part in ("-c", f"http.extraHeader={name}: {value}")]


def _refs(git: Callable[..., str], repository: Path) -> str:
    return git("for-each-ref", "--format=%(objectname) %(refname:lstrip=-2)", "refs", cwd=repository)


def test_a_mirror_clone_has_every_ref_and_object(
    git: Callable[..., str], git_doors: tuple[Door, Door], repository: str, origins: Origins, tmp_path: Path
) -> None:
    for door in git_doors:
        git(*_identified(door), "clone", "-q", "--mirror", f"{door.url}/{repository}", tmp_path / door.name)
        git("fsck", "--full", "--strict", cwd=tmp_path / door.name)
        assert _refs(git, tmp_path / door.name) == _refs(git, origins.git_root / repository)


def test_a_fetch_that_negotiates_with_many_refs(
    git: Callable[..., str], git_doors: tuple[Door, Door], repository: str, tmp_path: Path
) -> None:
    for door in git_doors:
        copy = tmp_path / door.name
        git(*_identified(door), "clone", "-q", "--mirror", f"{door.url}/{repository}", copy)
        git("update-ref", "-d", "refs/heads/topic/040", cwd=copy)
        git(*_identified(door), "fetch", "-q", "origin", cwd=copy)
        assert "topic/040" in git("for-each-ref", cwd=copy)


def test_a_push_above_the_post_buffer_arrives_whole(
    git: Callable[..., str], git_doors: tuple[Door, Door], repository: str, origins: Origins, tmp_path: Path
) -> None:
    for door in git_doors:
        git("clone", "-q", "--bare", origins.git_root / repository, origins.git_root / f"{tmp_path.name}-{door.name}")
        url = f"{door.url}/{tmp_path.name}-{door.name}"
        copy = tmp_path / door.name
        git(*_identified(door), "clone", "-q", url, copy)
        (copy / "large").write_bytes(random.Random(2).randbytes(3_000_000))  # http.postBuffer is 1 MiB
        git("add", ".", cwd=copy)
        git("commit", "-q", "-m", "large", cwd=copy)
        git(*_identified(door), "push", "-q", "origin", "HEAD:refs/heads/large", cwd=copy)
        served = origins.git_root / f"{tmp_path.name}-{door.name}"
        git("fsck", "--full", "--strict", cwd=served)
        assert git("rev-parse", "large", cwd=served) == git("rev-parse", "HEAD", cwd=copy)


def test_without_a_key_git_is_told_to_authenticate(through: Callable[[str], Door], repository: str) -> None:
    url = f"{through('/git').url}/{repository}"
    done = subprocess.run(
        ["git", "ls-remote", url],
        env={"PATH": os.environ["PATH"], "GIT_TERMINAL_PROMPT": "0", "GIT_CONFIG_NOSYSTEM": "1", "LC_ALL": "C"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 128
    assert "could not read Username" in done.stderr or "Authentication failed" in done.stderr
