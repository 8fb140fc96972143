"""The raw ends themselves: exact bytes both ways, and a failing script that is not lost."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.raw import Peer, Upstream, connect


async def test_exact_bytes_go_both_ways() -> None:
    async def answer(peer: Peer) -> None:
        assert await peer.read_until(b"\r\n\r\n") == b"one\r\n\r\n"
        assert await peer.read_exactly(3) == b"two"
        await peer.send(b"three", pause_after=(1, 4))

    async with Upstream(answer) as upstream:
        async with await connect(upstream.host, upstream.port) as client:
            await client.send(b"one\r\n\r\ntwo")
            assert await client.read_to_end() == b"three"
            assert await client.read_some() == b""
        assert upstream.received == [b"one\r\n\r\ntwo"]


async def test_a_reset_reads_as_the_end() -> None:
    async def answer(peer: Peer) -> None:
        await peer.read_some()
        await peer.reset()

    async with Upstream(answer) as upstream, await connect(upstream.host, upstream.port) as client:
        await client.send(b"x")
        with pytest.raises(EOFError):
            await client.read_until(b"y")


async def test_a_failing_script_fails_the_test() -> None:
    async def answer(peer: Peer) -> None:
        assert await peer.read_some() == b"y"

    async def ask() -> bytes:
        async with Upstream(answer) as upstream, await connect(upstream.host, upstream.port) as client:
            await client.send(b"x")
            return await client.read_to_end()

    with pytest.raises(AssertionError):
        await ask()


async def test_a_script_that_never_ends_is_ended_with_its_context() -> None:
    async def answer(_: Peer) -> None:
        await asyncio.Event().wait()

    async with Upstream(answer) as upstream, await connect(upstream.host, upstream.port) as client:
        await client.send(b"x")
