"""`tollgate dev`: the whole product in one terminal, with embedded PostgreSQL and Redis and a demo project."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

from tollgate.commands import add_settings_option, load_settings


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser("dev", help="run everything in one terminal")
    add_settings_option(parser)
    parser.add_argument(
        "--state-dir", type=Path, default=Path(".tollgate"), metavar="DIR", help="data and keys (default: .tollgate)"
    )
    parser.add_argument("--gateway-port", type=int, metavar="PORT", help="0 picks a free one (default: 8080)")
    parser.add_argument("--admin-port", type=int, metavar="PORT", help="0 picks a free one (default: 8081)")
    parser.add_argument("--workers", type=int, metavar="N", help="gateway processes sharing the port (default: 1)")
    parser.add_argument("--apply", type=Path, metavar="FILE", help="declare what FILE says, as `tollgate apply -f`")
    parser.add_argument("--no-demo", action="store_true", help="no demo project and no demo upstream")


def run(args: argparse.Namespace) -> int:
    """Run until Ctrl-C. Raises UserError."""
    overrides = {"gateway.port": args.gateway_port, "admin.port": args.admin_port, "gateway.workers": args.workers}
    loaded = load_settings(args, overrides)
    if loaded.is_default("log_format"):  # people read this terminal
        loaded = load_settings(args, {**overrides, "log_format": "console"})

    from config.log import setup
    from tollgate.dev.stack import Options, run

    setup(loaded.settings, "dev")
    return asyncio.run(run(loaded, Options(args.state_dir, args.apply, demo=not args.no_demo)))
