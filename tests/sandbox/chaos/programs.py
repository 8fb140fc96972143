"""The programs of the mix. Each is made from a random number generator, and says where its own measurement is to be found.

A program that measures prints a last line `measured {"cpuMs": …}`; one that is to be killed prints such lines all the time,
and the last one counts. `peakMiB` is memory that it had touched, by its page tables, `keptMs` for how long.
"""

from __future__ import annotations

import random
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final


class How(Enum):
    """What the client does."""

    RUN = "run"
    STREAM = "stream"
    STOP = "stop"  # by DELETE, from another connection, once it has started
    ABANDON = "abandon"  # the client goes away in the middle


@dataclass(frozen=True, slots=True)
class Program:
    """A request for a run, and how it should come out: `status`, and one of `reasons` where it is accepted.

    `is_measured`: its own figures are in its output. `killed_at_mib`: the limit that it was killed for. `pause_s`: how long
    the client waits before it stops the run or leaves.
    """

    name: str
    body: dict[str, Any]
    how: How = How.RUN
    status: int = 200
    reasons: tuple[str, ...] = ("exit",)
    is_measured: bool = False
    killed_at_mib: float | None = None
    pause_s: float = 0.0


Maker = Callable[[random.Random], Program]

_MEASURING: Final = """
import json, os, resource, sys, time
def used():
    accounts = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(a.ru_utime + a.ru_stime for a in accounts)
def burn(seconds):
    end = time.thread_time() + seconds
    while time.thread_time() < end: pass
def tell(extra=0.0, **more):
    print("measured", json.dumps({"cpuMs": (used() + extra) * 1000, **more}), flush=True)
"""

_NODE_MEASURING: Final = """
const began = process.cpuUsage();
const used = () => { const account = process.cpuUsage(began); return (account.user + account.system) / 1e3; };
const pause = (ms) => { const end = performance.now() + ms; while (performance.now() < end); };
const burn = (ms) => { while (used() < ms) pause(1); };
const tell = () => require('fs').writeSync(1, 'measured ' + JSON.stringify({ cpuMs: used() }) + '\\n');
"""


def _python(code: str, *, timeout_ms: int = 20_000, memory_mb: int = 256) -> dict[str, Any]:
    policy = {"timeoutMs": timeout_ms, "memoryMB": memory_mb}
    return {"lang": "python", "code": code, "policy": policy}


def _measured(code: str, *, timeout_ms: int = 20_000) -> dict[str, Any]:
    return _python(_MEASURING + textwrap.dedent(code), timeout_ms=timeout_ms)


def _node(code: str) -> dict[str, Any]:
    return {"lang": "node", "code": _NODE_MEASURING + code, "policy": {"timeoutMs": 20_000}}


def _burn(chance: random.Random) -> Program:
    return Program("burn", _measured(f"burn({chance.uniform(0.1, 0.3)}); tell()"), is_measured=True)


def _threads(chance: random.Random) -> Program:
    code = f"""
    import hashlib, threading
    def work():
        end = time.thread_time() + {chance.uniform(0.03, 0.07)}
        while time.thread_time() < end: hashlib.sha256(bytes(200_000)).digest()  # without the interpreter's lock
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    tell()
    """
    return Program("threads", _measured(code), is_measured=True)


def _children(chance: random.Random) -> Program:
    code = f"""
    for _ in range(3):
        if os.fork() == 0:
            burn({chance.uniform(0.04, 0.1)})
            os._exit(0)
    for _ in range(3): os.wait()
    tell()
    """
    return Program("children", _measured(code), is_measured=True)


def _daemon(chance: random.Random) -> Program:
    """A grandchild that nobody waits for: on its own account alone, which it hands over before it sleeps."""
    code = f"""
    theirs, ours = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            burn({chance.uniform(0.1, 0.2)})
            os.write(ours, repr(used()).encode())
            time.sleep(60)
        os._exit(0)
    os.wait()
    os.close(ours)
    tell(float(os.read(theirs, 100)))
    """
    return Program("daemon", _measured(code), is_measured=True)


def _memory(chance: random.Random) -> Program:
    mib = chance.randint(60, 160)
    code = f"""
    began = time.monotonic()
    held = bytearray({mib} << 20)
    for at in range(0, len(held), 4096): held[at] = 1
    tables = dict(line.split(":") for line in open("/proc/self/smaps_rollup").read().splitlines()[1:])
    peak = int(tables["Anonymous"].split()[0]) / 1024
    time.sleep({chance.uniform(0.2, 0.5)})
    kept = time.monotonic() - began
    del held
    tell(peakMiB=peak, keptMs=kept * 1000)
    """
    return Program("memory", _measured(code), is_measured=True)


def _spin(chance: random.Random) -> Program:
    code = """
    while True:
        burn(0.002)
        tell()
    """
    body = _measured(code, timeout_ms=chance.randint(200, 500))
    return Program("spin", body, reasons=("timeout",), is_measured=True)


def _stubborn(chance: random.Random) -> Program:
    code = f"""
    import signal
    for number in range(1, 65):
        try: signal.signal(number, signal.SIG_IGN)
        except (OSError, ValueError): pass
    for _ in range(3):
        if os.fork() == 0:
            os.setsid()
            while True: time.sleep(1)
    burn({chance.uniform(0.1, 0.15)})
    tell()
    """
    return Program("stubborn", _measured(code), is_measured=True)


def _hello(chance: random.Random) -> Program:
    return Program("hello", _python("print(6 * 7)"))


def _sleeper(chance: random.Random) -> Program:
    return Program("sleeper", _python(f"import time; time.sleep({chance.uniform(0.05, 0.4)})"))


def _artifacts(chance: random.Random) -> Program:
    code = f"import os\nfor n in range(20): open(f'out/{{n}}', 'wb').write(os.urandom({chance.randint(10, 50_000)}))"
    return Program("artifacts", _python(code))


def _oom(chance: random.Random) -> Program:
    limit = chance.randint(40, 90)
    code = "x = []\nwhile True: x.append(bytearray(1 << 20))"
    return Program("oom", _python(code, memory_mb=limit), reasons=("oom",), killed_at_mib=limit)


def _fork_bomb(chance: random.Random) -> Program:
    code = "import os\nwhile True:\n  try: os.fork()\n  except OSError: pass"
    return Program("fork_bomb", _python(code, timeout_ms=200, memory_mb=64), reasons=("timeout", "oom"))


def _flood(chance: random.Random) -> Program:
    code = f"import os\nwhile True: os.write({chance.choice((1, 2))}, b'x' * 65536)"
    return Program("flood", _python(code), reasons=("output",))


def _network(chance: random.Random) -> Program:
    """It asks for what it may not reach; what counts is that its proxy and its socket go."""
    body = _python("import urllib.request as r; r.urlopen('http://denied.test/', timeout=9)")
    body["policy"] |= {"allowNet": True, "allowedHosts": ["example.com"]}
    return Program("network", body, reasons=("net_denied",))


def _node_burn(chance: random.Random) -> Program:
    return Program("node_burn", _node(f"burn({chance.randint(200, 350)}); tell();"), is_measured=True)


def _node_hello(chance: random.Random) -> Program:
    return Program("node_hello", _node("console.log(6 * 7)"))


def _stream(chance: random.Random) -> Program:
    code = f"for n in range(3): print(n, flush=True); burn({chance.uniform(0.04, 0.08)})\ntell()"
    return Program("stream", _measured(code), How.STREAM, is_measured=True)


def _stop(chance: random.Random) -> Program:
    code = "while True: burn(0.002); tell()"
    pause_s = chance.uniform(0.05, 0.3)
    return Program("stop", _measured(code), How.STOP, reasons=("stopped",), is_measured=True, pause_s=pause_s)


def _abandon(chance: random.Random) -> Program:
    body = _python("import time\nwhile True: time.sleep(0.01)", timeout_ms=5_000)
    return Program("abandon", body, How.ABANDON, pause_s=chance.uniform(0, 0.4))


def _refused(chance: random.Random) -> Program:
    body = chance.choice(({"lang": "cobol", "code": ""}, {"lang": "python"}, _python("1", timeout_ms=1)))
    return Program("refused", body, status=400)


WEIGHTS: Final[dict[Maker, int]] = {
    _hello: 20,
    _burn: 12,
    _sleeper: 6,
    _threads: 5,
    _children: 6,
    _daemon: 6,
    _memory: 6,
    _spin: 4,
    _stubborn: 4,
    _artifacts: 4,
    _oom: 3,
    _fork_bomb: 2,
    _flood: 3,
    _network: 3,
    _node_burn: 3,
    _node_hello: 4,
    _stream: 6,
    _stop: 3,
    _abandon: 3,
    _refused: 2,
}


def program(seed: int, number: int) -> Program:
    """What run `number` is, for a seed."""
    chance = random.Random(f"{seed}/{number}")
    (make,) = chance.choices(list(WEIGHTS), list(WEIGHTS.values()))
    return make(chance)
