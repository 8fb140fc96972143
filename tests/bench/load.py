"""The two load generators, run as programs: wrk for the closed loop, pace.c for the open one and for exact numbers."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.bench import packages
from tests.bench.cases import ECHO, Case, handshake
from tests.bench.ground import CONF, BenchError
from tests.bench.population import Population


@dataclass(frozen=True, slots=True)
class Load:
    """What a generator saw. Latencies in ms; `refused` are answers other than 2xx and 3xx, `errors` broken exchanges.

    `late_p99_ms` is how late the generator itself came to its departures (open loop only).
    """

    requests: int
    seconds: float
    refused: int
    errors: int
    p50_ms: float
    p99_ms: float
    p999_ms: float
    late_p99_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class Generators:
    """`pace` is the compiled program, `directory` where the requests go, `connections` how many are kept open at once."""

    pace: Path
    directory: Path
    connections: int

    @property
    def requests(self) -> Path:
        """The file of raw requests that both programs read."""
        return self.directory / "requests"

    @property
    def handshake(self) -> Path:
        """The file of what opens a WebSocket."""
        return self.directory / "handshake"

    def take_up(self, case: Case, population: Population) -> None:
        """Write what the case sends to the files."""
        for path, raws in ((self.requests, case.send(population)), (self.handshake, [handshake(population)])):
            path.write_bytes(b"".join(b"%d\n%b" % (len(raw), raw) for raw in raws))

    def closed(self, case: Case, port: int, seconds: int) -> Load:
        """As fast as it goes: wrk, or pace for WebSockets, which wrk does not speak."""
        if case.is_websocket:
            return self._pace(case, port, seconds=seconds)
        scheme = "https" if case.is_tls else "http"
        command = [packages.find("wrk"), "-t1", f"-c{self.connections}", f"-d{seconds}s", "-s", CONF / "request.lua"]
        env = {**os.environ, "BENCH_REQUESTS": str(self.requests)}
        out = _output([*command, f"{scheme}://127.0.0.1:{port}/"], seconds + 30, env)
        for line in out.splitlines():
            if line.startswith("FIGURES "):
                requests, duration_us, refused, errors, p50, p99, p999 = map(int, line.split()[1:])
                return Load(requests, duration_us / 1e6, refused, errors, p50 / 1000, p99 / 1000, p999 / 1000)
        raise BenchError(f"wrk gave no figures: {out.strip()[-200:]}")

    def paced(self, case: Case, port: int, rate: float, seconds: float) -> Load:
        """At a constant rate, counted from the intended departure."""
        return self._pace(case, port, rate=rate, seconds=seconds)

    def exactly(self, case: Case, port: int, count: int, connections: int = 16) -> Load:
        """So many requests, and every answer waited for."""
        return self._pace(case, port, count=count, seconds=20 + count / 500, connections=connections)

    def warm_up(self, case: Case, port: int, seconds: float) -> Load:
        """A closed loop for a moment: fills caches and opens connections to the upstream. Over TLS wrk's shortest, 1 s."""
        return self.closed(case, port, 1) if case.is_tls else self._pace(case, port, seconds=seconds)

    def _pace(
        self, case: Case, port: int, *, seconds: float, rate: float = 0, count: int = -1, connections: int | None = None
    ) -> Load:
        command = [self.pace, "-p", port, "-c", connections or self.connections, "-s", seconds, "-f", self.requests]
        command += ["-r", rate] if rate else []
        command += ["-n", count] if count >= 0 else []
        command += ["-k"] if case.is_fresh else []
        command += ["-w", self.handshake, "-b", len(ECHO)] if case.is_websocket else []
        seen = json.loads(_output(command, seconds + 30, None))
        return Load(
            requests=seen["requests"],
            seconds=seen["seconds"],
            refused=seen["refused"],
            errors=seen["errors"],
            p50_ms=seen["p50_us"] / 1000,
            p99_ms=seen["p99_us"] / 1000,
            p999_ms=seen["p999_us"] / 1000,
            late_p99_ms=seen["late_p99_us"] / 1000,
        )


def _output(command: list[object], timeout_s: float, env: dict[str, str] | None) -> str:
    words = [str(word) for word in command]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=timeout_s, env=env)
    except subprocess.TimeoutExpired:
        raise BenchError(f"{Path(words[0]).name} did not end within {timeout_s:.0f} s") from None
    if done.returncode:
        raise BenchError(f"{Path(words[0]).name}: {(done.stderr.strip() or done.stdout.strip() or 'failed')[-300:]}")
    return done.stdout
