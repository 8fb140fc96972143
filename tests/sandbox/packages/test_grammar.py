"""Requirement strings: what is one, and all the things that installers would understand and we refuse."""

from __future__ import annotations

import pytest

from sandbox.nouns import Language
from sandbox.packages.grammar import normal, normal_all


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("six", "six"),
        ("Flask_SQLAlchemy", "flask-sqlalchemy"),
        ("requests[Socks, security] >= 2 , <3", "requests[security,socks]<3,>=2"),
        ("numpy == 2.1.*", "numpy==2.1.*"),
        ("a~=1.0", "a~=1.0"),
    ],
)
def test_python(text: str, expected: str) -> None:
    assert normal(Language.PYTHON, text) == expected


@pytest.mark.parametrize(
    "text", ["lodash", "lodash@4.17.21", "@scope/name@^1.2", "left-pad@~1", "x@latest", "x@>=2.0.0-beta.1"]
)
def test_node(text: str) -> None:
    assert normal(Language.NODE, text) == text


REFUSED = [
    *(
        "",
        " ",
        "-r /etc/passwd",
        "--default-index=http://x",
        "-e .",
        ".",
        "./dir",
        "/etc/passwd",
        "../x",
        "~/x",
        "file:///etc/passwd",
    ),
    *(
        "git+https://x/y",
        "https://x/y.whl",
        "evil @ file:///tmp/x",
        "evil@file:x",
        "x; os_name == 'posix'",
        "x\ny",
        "x\0",
        "x #",
    ),
    *(
        "x --hash=sha256:0",
        "$(id)",
        "`id`",
        "x|y",
        "x&y",
        "x'",
        'x"',
        "x==1;y",
        "é",
        "x" * 200,
        "x[y",
        "x==",
        "==1",
        "http:x",
    ),
]


@pytest.mark.parametrize("text", [*REFUSED, "x@1.0", "@scope/name"])
def test_what_is_no_python_requirement(text: str) -> None:
    with pytest.raises(ValueError, match="must be of the form"):
        normal(Language.PYTHON, text)


@pytest.mark.parametrize(
    "text",
    [
        *REFUSED,
        "npm:x",
        "x@npm:y@1",
        "user/repo",
        "github:user/repo",
        "x@git://y",
        "@/x",
        "@a",
        "x@",
        "X",
        "x==1",
        "x@file:y",
    ],
)
def test_what_is_no_node_requirement(text: str) -> None:
    with pytest.raises(ValueError, match="must be of the form"):
        normal(Language.NODE, text)


def test_a_list_is_sorted_and_its_faults_have_a_place() -> None:
    assert normal_all(Language.PYTHON, ("b", "A", "a")) == ("a", "b")
    with pytest.raises(ValueError, match=r"^packages\.packages\.1\|must be"):
        normal_all(Language.PYTHON, ("a", "--x"))
