"""`make bench-sandbox`: the code runner's latency and throughput, through its service, with `docker run --rm` beside it.

For each backend and language: hello world from the warm pool, one at a time with a pause in which the pool fills up (p50,
p95), then as many as go, eight at a time. Results go to .tollgate/bench/sandbox.json as
`{backend: {lang: {p50_ms, p95_ms, runs_per_s}}}`. A backend that cannot be had here is left out, and said so.

Of jails there is more: `cpu_ms`, of one run at that rate, all processes together, PostgreSQL and this client too, which
holds on a busy machine as well; `loop_ms`, the longest that a callback kept the service's loop; and of a guest that waits,
`own_mb`, what is nobody else's, and `pss_mb`, with its share of what it has in common with the others, twelve in all.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import time
from pathlib import Path
from typing import Any, Final

import aiohttp
import psutil
import pytest
import uvloop

from tests.sandbox.engine import IMAGE, engine
from tests.sandbox.service import Asker, service
from tests.sandbox.traces import UIDS
from tests.support.blocking import longest_callback
from tests.support.servers import TestPostgres

OUT: Final = Path(".tollgate/bench/sandbox.json")
HELLO: Final = {"python": "print('hello')", "node": "console.log('hello')"}


async def latencies(asker: Asker, lang: str, count: int, pause_s: float) -> list[float]:
    """Milliseconds of `count` runs, each after a pause."""
    found = []
    for _ in range(count):
        await asyncio.sleep(pause_s)
        began = time.perf_counter()
        status, reply = await asker.run({"lang": lang, "code": HELLO[lang]})
        found.append((time.perf_counter() - began) * 1000)
        assert (status, reply["stdout"]) == (200, "hello\n"), reply
    return found


def cpu_s() -> float:
    """Seconds so far of this process and all below, with what those have reaped."""
    total = sum(os.times()[:2])
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            total += sum(child.cpu_times()[:4])
    return total


def waiting_mb() -> dict[str, dict[str, float]]:
    """Memory of one guest that waits, by language: what is its own, and its share of the rest."""
    slots: dict[int, list[psutil.Process]] = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.uids().real in UIDS:
                slots.setdefault(process.uids().real, []).append(process)
    found: dict[str, dict[str, float]] = {}
    for lang in HELLO:
        memory = [
            [process.memory_full_info() for process in slot]
            for slot in slots.values()
            if any(process.name().startswith("node") for process in slot) == (lang == "node")
        ]
        if memory:
            own = statistics.median(sum(each.uss for each in slot) for slot in memory)
            pss = statistics.median(sum(each.pss for each in slot) for slot in memory)
            found[lang] = {"own_mb": round(own / 1_048_576, 1), "pss_mb": round(pss / 1_048_576, 1)}
    return found


async def loop_ms(url: str, **more: Any) -> dict[str, dict[str, float]]:
    """The longest callback of the service's loop while runs are made, in asyncio's own loop, by language."""
    found = {}
    async with service(url, warm_python=8, warm_node=4, max_running_per_project=8, **more) as asker:
        for lang in HELLO:
            await latencies(asker, lang, 3, 0.1)
            with longest_callback() as longest:
                await throughput(asker, lang, 2)
            found[lang] = {"loop_ms": round(longest.ms, 1)}
    return found


async def throughput(asker: Asker, lang: str, seconds: float, at_once: int = 8) -> tuple[float, float]:
    """Runs a second, sustained, and milliseconds of CPU of each."""
    end, done, used_s = time.perf_counter() + seconds, 0, cpu_s()

    async def one() -> None:
        nonlocal done
        while time.perf_counter() < end:
            status, _ = await asker.run({"lang": lang, "code": HELLO[lang]})
            assert status == 200
            done += 1

    began = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(at_once)))
    return done / (time.perf_counter() - began), (cpu_s() - used_s) * 1000 / done


def shown(times: list[float], per_s: float) -> dict[str, float]:
    return {
        "p50_ms": round(statistics.median(times), 1),
        "p95_ms": round(sorted(times)[int(len(times) * 0.95)], 1),
        "runs_per_s": round(per_s, 1),
    }


async def of_backend(name: str, url: str, quick: bool, **more: Any) -> dict[str, Any]:
    found = {}
    count, pause_s, seconds = (10, 0.1, 2.0) if quick else (40, 0.1, 6.0)
    if name == "docker":
        count, pause_s = (5, 0.8) if quick else (15, 0.8)
    async with service(url, backend=name, warm_python=8, warm_node=4, max_running_per_project=8, **more) as asker:
        await asyncio.sleep(2)
        waiting = waiting_mb() if name == "jail" else {}
        for lang in HELLO:
            with contextlib.suppress(aiohttp.ClientError):
                await latencies(asker, lang, 3, pause_s)
            times = await latencies(asker, lang, count, pause_s)
            per_s, cpu_ms = await throughput(asker, lang, seconds)
            found[lang] = shown(times, per_s)
            if name == "jail":
                found[lang] |= {"cpu_ms": round(cpu_ms, 1), **waiting.get(lang, {})}
            await asyncio.sleep(2)
    return found


def of_docker_cli(url: str, quick: bool) -> dict[str, Any]:
    """What everybody would do first: `docker run --rm`, with the same image and comparable hardening."""
    found = {}
    for lang, program in (("python", ["/usr/bin/python3", "-c"]), ("node", ["/usr/bin/node", "-e"])):
        command = ["docker", "-H", url, "run", "--rm", "--network=none", "--read-only", "--cap-drop=ALL"]
        command += ["--security-opt=no-new-privileges", "--pids-limit=64", "--memory=256m", "--user=1000", IMAGE]
        times = []
        for _ in range(4 if quick else 10):
            began = time.perf_counter()
            subprocess.run([*command, *program, HELLO[lang]], check=True, capture_output=True)
            times.append((time.perf_counter() - began) * 1000)
        found[lang] = shown(times, 1000 / statistics.median(times))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench-sandbox")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument(
        "--backend", choices=["jail", "jail_bubblewrap", "jail_zygote", "docker", "docker_cli"], action="append"
    )
    args = parser.parse_args()
    wanted = args.backend or ["jail", "jail_bubblewrap", "jail_zygote", "docker", "docker_cli"]
    postgres = TestPostgres()
    results: dict[str, Any] = json.loads(OUT.read_text()) if OUT.exists() else {}
    try:
        for name in wanted:
            try:
                docker = {"docker_url": engine(), "docker_image": IMAGE} if name.startswith("docker") else {}
                if name == "docker_cli":
                    results[name] = of_docker_cli(docker["docker_url"], args.quick)
                else:
                    url = postgres.create_database(migrated=False)
                    backend, _, kind = name.partition("_")
                    more = docker | {"": {}, "zygote": {"zygote": True}, "bubblewrap": {"bubblewrap_only": True}}[kind]
                    results[name] = uvloop.run(of_backend(backend, url, args.quick, **more))
                    if backend == "jail":
                        for lang, figures in asyncio.run(loop_ms(url, backend=backend, **more)).items():
                            results[name][lang] |= figures
            except pytest.skip.Exception as skipped:
                print(f"{name}: left out, {skipped}")
                continue
            for lang, figures in results[name].items():
                print(
                    f"{name:<16}{lang:<8}" + "  ".join(f"{key} {value}" for key, value in figures.items()), flush=True
                )
    finally:
        postgres.close()
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(results, indent=2) + "\n")
    print(f"written to {OUT} ({os.cpu_count()} CPUs)")


if __name__ == "__main__":
    main()
