"""The system calls that submitted code may make, as a cBPF program and as Docker's JSON.

The policy is an allow-list: what a Linux program knows (tables `x86_64.txt`, `aarch64.txt`: number, name) minus DENIED.
Anything newer than the tables answers ENOSYS, so that a kernel's latest call is not reachable before somebody looked at
it; what is denied answers EPERM. A call of another architecture (int 0x80, x32) kills the process: numbers mean other
things there, which is how filters are walked around.

Three calls are looked at more closely: clone (no new namespaces), socket (unix, IPv4 and IPv6 only: network namespaces
do not cover AF_VSOCK, and AF_ALG and AF_NETLINK are kernel attack surface) and ioctl (no typing into terminals).
clone3 answers ENOSYS because its flags are behind a pointer; C libraries then fall back to clone.
"""

from __future__ import annotations

import errno
import struct
from functools import cache
from importlib.resources import files
from typing import Any, Final

DENIED: Final = frozenset(
    name
    for line in files(__package__).joinpath("denied.txt").read_text().splitlines()
    if not line.startswith("#")
    for name in line.split()
)
"""Refused with EPERM: denied.txt."""

UNIX, INET, INET6 = 1, 2, 10
NAMESPACE_FLAGS: Final = 0x7E020080  # CLONE_NEW{NS,CGROUP,UTS,IPC,USER,PID,NET} and, of clone, NEWTIME
TIOCSTI, TIOCLINUX = 0x5412, 0x541C

_ARCHITECTURES: Final = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32: Final = 0x40000000
_ALLOW, _KILL = 0x7FFF0000, 0x80000000
_LOAD, _JEQ, _JGE, _JSET, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCH, _ARG0, _ARG1 = 0, 4, 16, 24
_Code = list[tuple[int, int, int, int]]


def _errno(number: int) -> int:
    return 0x00050000 | number


@cache
def numbers(machine: str) -> dict[str, int]:
    """System calls by name. Raises KeyError for an architecture without a table."""
    if machine not in _ARCHITECTURES:
        raise KeyError(machine)
    lines = files(__package__).joinpath(f"{machine}.txt").read_text().splitlines()
    return {name: int(number) for number, name in (line.split() for line in lines)}


def program(machine: str) -> bytes:
    """The filter as a cBPF program (struct sock_filter[]), as prctl(2) and bwrap --seccomp take it.

    A search tree over ranges of numbers with the same answer: the kernel tries every number when it takes a filter, which a
    list makes 0.15 ms a jail dearer.
    """
    table = numbers(machine)
    known = {number: name for name, number in table.items()}
    code: _Code = [
        (_LOAD, 0, 0, _ARCH),
        (_JEQ, 1, 0, _ARCHITECTURES[machine]),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
    ]
    if machine == "x86_64":
        code += [(_JGE, 0, 1, _X32), (_RETURN, 0, 0, _KILL)]
    ranges: list[tuple[int, _Code]] = []
    for number in range(max(known) + 2):  # with the first beyond: all that follow are answered as it is
        answer = _answer(known.get(number))
        if not ranges or ranges[-1][1] != answer:
            ranges.append((number, answer))
    code += _tree(ranges)
    return b"".join(struct.pack("=HBBI", op, yes, no, value) for op, yes, no, value in code)


def _answer(name: str | None) -> _Code:
    """What follows once the call is known. The low half of an argument is at its offset on both (little-endian) machines."""
    denied = (_RETURN, 0, 0, _errno(errno.EPERM))
    allowed = (_RETURN, 0, 0, _ALLOW)
    match name:
        case None | "clone3":
            return [(_RETURN, 0, 0, _errno(errno.ENOSYS))]
        case "clone":
            return [(_LOAD, 0, 0, _ARG0), (_JSET, 0, 1, NAMESPACE_FLAGS), denied, allowed]
        case "socket":
            families = [(_JEQ, 2, 0, UNIX), (_JEQ, 1, 0, INET), (_JEQ, 0, 1, INET6)]
            return [(_LOAD, 0, 0, _ARG0), *families, allowed, (_RETURN, 0, 0, _errno(97))]
        case "ioctl":
            return [(_LOAD, 0, 0, _ARG1), (_JEQ, 1, 0, TIOCSTI), (_JEQ, 0, 1, TIOCLINUX), denied, allowed]
        case _:
            return [denied if name in DENIED else allowed]


def _tree(ranges: list[tuple[int, _Code]]) -> _Code:
    if len(ranges) == 1:
        return ranges[0][1]
    middle = len(ranges) // 2
    below, rest = _tree(ranges[:middle]), _tree(ranges[middle:])
    if len(below) > 255:
        raise ValueError("a jump is too far for cBPF")
    return [(_JGE, len(below), 0, ranges[middle][0]), *below, *rest]


def docker_profile(machine: str) -> dict[str, Any]:
    """The same policy in the form of Docker's --security-opt seccomp=. A container's own start needs nothing denied."""
    table = numbers(machine)
    special = {"clone", "clone3", "socket", "ioctl"}
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": errno.ENOSYS,
        "archMap": [{"architecture": f"SCMP_ARCH_{machine.upper()}", "subArchitectures": []}],
        "syscalls": [
            {"names": sorted(set(table) - DENIED - special), "action": "SCMP_ACT_ALLOW"},
            {"names": sorted(DENIED), "action": "SCMP_ACT_ERRNO", "errnoRet": errno.EPERM},
            {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": errno.ENOSYS},
            {"names": ["clone"], "action": "SCMP_ACT_ALLOW", "args": [_masked(0, NAMESPACE_FLAGS)]},
            *(
                {"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": [_compared(0, family, "SCMP_CMP_EQ")]}
                for family in (UNIX, INET, INET6)
            ),
            {
                "names": ["ioctl"],
                "action": "SCMP_ACT_ALLOW",
                "args": [_compared(1, request, "SCMP_CMP_NE") for request in (TIOCSTI,)],
            },
        ],
    }


def _masked(index: int, mask: int) -> dict[str, Any]:
    return {"index": index, "value": mask, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}


def _compared(index: int, value: int, operator: str) -> dict[str, Any]:
    return {"index": index, "value": value, "valueTwo": 0, "op": operator}
