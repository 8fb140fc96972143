"""`tollgate stripe-fake`: a stateful Stripe for tests, on this machine, until SIGTERM or Ctrl-C."""

from __future__ import annotations

import argparse
import asyncio
import signal

from tollgate.commands import UserError


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "stripe-fake",
        help="run a stateful Stripe for tests",
        description="A Stripe for tests: point the stripe library's base_addresses at it, with any key sk_test_… or"
        " sk_live_…. It fails on demand; see docs/stripe-fake.md.",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=12111, help="default: 12111; 0 picks a free one")


def run(args: argparse.Namespace) -> int:
    """Returns when it was asked to stop. Raises UserError if the port cannot be had."""
    try:
        asyncio.run(_serve(args.host, args.port))
    except OSError as error:
        raise UserError(f"cannot listen on {args.host}:{args.port}: {error.strerror}") from None
    return 0


async def _serve(host: str, port: int) -> None:
    from stripefake.app import running

    stop = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, stop.set)
    async with running(host, port) as fake:
        print(f"stripe-fake listens on {fake.url}", flush=True)
        await stop.wait()
