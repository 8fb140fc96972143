"""The filter, executed here by a small interpreter of cBPF, for both architectures; jails execute it for real."""

from __future__ import annotations

import errno
import struct

import pytest

from sandbox.seccomp import DENIED, docker_profile, numbers, program

ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
ALLOW, KILL = 0x7FFF0000, 0x80000000


def judge(machine: str, number: int, *args: int, arch: int | None = None) -> int:
    """What the filter answers to a call."""
    padded = [*args, 0, 0, 0, 0, 0, 0][:6]
    data = struct.pack("=IIQ6Q", number, ARCH[machine] if arch is None else arch, 0, *padded)
    code = list(struct.iter_unpack("=HBBI", program(machine)))
    at = accumulator = 0
    while True:
        op, yes, no, value = code[at]
        at += 1
        if op == 0x06:
            return value
        if op == 0x20:
            accumulator = struct.unpack_from("=I", data, value)[0]
        else:
            holds = {0x15: accumulator == value, 0x35: accumulator >= value, 0x45: bool(accumulator & value)}[op]
            at += yes if holds else no


@pytest.mark.parametrize("machine", ARCH)
def test_every_known_call_gets_its_answer(machine: str) -> None:
    table = numbers(machine)
    for name, number in table.items():
        expected = ALLOW
        if name in DENIED:
            expected = 0x50000 | errno.EPERM
        elif name == "clone3":
            expected = 0x50000 | errno.ENOSYS
        elif name == "socket":
            expected = 0x50000 | errno.EAFNOSUPPORT
        assert judge(machine, number) == expected, name
    for number in {*range(600)} - set(table.values()):
        assert judge(machine, number) == 0x50000 | errno.ENOSYS


@pytest.mark.parametrize("machine", ARCH)
def test_arguments_are_looked_at(machine: str) -> None:
    table = numbers(machine)
    assert judge(machine, table["clone"], 17) == ALLOW
    assert judge(machine, table["clone"], 0x003D0F00) == ALLOW  # what a thread is made with
    for flag in (0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000):
        assert judge(machine, table["clone"], flag | 17) == 0x50000 | errno.EPERM
    assert [judge(machine, table["socket"], family) == ALLOW for family in (1, 2, 10, 16, 17, 38, 40)] == [
        *[True] * 3,
        *[False] * 4,
    ]
    assert judge(machine, table["ioctl"], 0, 0x5401) == ALLOW
    assert judge(machine, table["ioctl"], 0, 0x5412) == 0x50000 | errno.EPERM
    assert judge(machine, table["ioctl"], 0, 0x1_0000_541C) == 0x50000 | errno.EPERM  # the upper half is not looked at


def test_other_architectures_die() -> None:
    assert judge("x86_64", 39, arch=0x40000003) == KILL
    assert judge("x86_64", 0x40000000 | 39) == KILL
    assert judge("aarch64", 39, arch=0xC000003E) == KILL


def test_what_is_denied_is_spelled_right() -> None:
    assert set(numbers("x86_64")) | set(numbers("aarch64")) >= DENIED


def test_the_docker_profile_says_the_same() -> None:
    allowed = {
        n for rule in docker_profile("x86_64")["syscalls"] if rule["action"].endswith("ALLOW") for n in rule["names"]
    }
    assert not allowed & DENIED
    assert {"read", "clone", "socket", "ioctl", "execve"} <= allowed
