"""What every backend does with honest code: input, output, files, ends, limits and figures."""

from __future__ import annotations

import asyncio
import itertools
import time

import pytest

from sandbox.backends.base import Backend, Handle
from sandbox.nouns import MIB, Language, Limits, Reason, SourceFile, Stream
from tests.sandbox.runs import job, node, python, says

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_python_gets_what_a_program_gets(backend: Backend) -> None:
    ended = await python(
        backend,
        """
        import os, sys
        from lib.greet import greet
        print(greet(sys.argv[1]), sys.stdin.read(), os.environ["NAME"], __name__, os.getcwd(), os.listdir("."))
        print("to the other", file=sys.stderr)
        sys.exit(3)
        """,
        more_files=(SourceFile("lib/greet.py", b"def greet(who): return 'hello ' + who"),),
        args=("wörld",),
        env=(("NAME", "välue"),),
        stdin=b"input",
    )
    text = ended.stdout.decode()
    assert text.startswith("hello wörld input välue __main__ /workspace ")
    assert "lib" in text
    assert ended.stderr == b"to the other\n"
    assert (ended.exit_code, ended.reason, ended.is_truncated) == (3, Reason.EXIT, False)


async def test_python_has_what_the_interactive_one_has(backend: Backend) -> None:
    """Made by the guest itself, which does not load `site`; and a file that was never closed is written at the end."""
    code = """
    import io
    print(quit, credits, sep="; ")
    assert "Copyright" in repr(copyright) and "license" in repr(license).lower() and "help" in repr(help)
    help(print)
    class Late(io.StringIO):
        def __del__(self): print("taken apart")
    late = Late()
    """
    said = await says(backend, code)
    assert said.startswith(
        "Use quit() or Ctrl-D (i.e. EOF) to exit; See www.python.org for more information.\nHelp on "
    )
    assert said.endswith("taken apart")


async def test_node_gets_what_a_program_gets(backend: Backend) -> None:
    ended = await node(
        backend,
        """
        const {greet} = require('./lib/greet.js');
        const input = require('fs').readFileSync(0, 'utf8');
        console.log(greet(process.argv[2]), input, process.env.NAME, require.main === module, Object.keys(process.env));
        console.error('to the other');
        process.exitCode = 3;
        """,
        more_files=(SourceFile("lib/greet.js", b"exports.greet = who => 'hello ' + who"),),
        args=("wörld",),
        env=(("NAME", "välue"),),
        stdin=b"input",
    )
    assert ended.stdout.decode() == "hello wörld input välue true [ 'NAME' ]\n"
    assert ended.stderr == b"to the other\n"
    assert (ended.exit_code, ended.reason) == (3, Reason.EXIT)


async def test_files_of_a_node_that_was_killed_are_not_lost(backend: Backend) -> None:
    """Node turns its pipes to not blocking, and turns them back only where it can end by itself."""
    code = """
    require('fs').writeFileSync('/workspace/out/large', Buffer.alloc(4_000_000));
    console.error('said');
    process.kill(process.pid, 'SIGKILL');
    """
    made = job(code, Language.NODE)
    ended = await backend.run(made, Handle(), lambda stream, data: time.sleep(0.1))  # a reader that is busy otherwise
    assert (ended.stderr, ended.signal) == (b"said\n", 9)
    assert [(a.path, len(a.content)) for a in ended.artifacts] == [("large", 4_000_000)]


async def test_node_modules_of_either_kind(backend: Backend) -> None:
    from dataclasses import replace

    made = job("", Language.NODE)
    files = (
        SourceFile("main.mjs", b"import {x} from './x.mjs'; console.log(await Promise.resolve(x))"),
        SourceFile("x.mjs", b"export const x = 'module'"),
    )
    ended = await backend.run(replace(made, files=files, entrypoint="main.mjs"), Handle())
    assert ended.stdout == b"module\n", ended.stderr


async def test_threads_processes_and_async_work(backend: Backend) -> None:
    found = await says(
        backend,
        """
        import asyncio, multiprocessing, subprocess, sys, threading
        def work(n): return n * n
        if __name__ == "__main__":
            done = []
            thread = threading.Thread(target=lambda: done.append(1)); thread.start(); thread.join()
            with multiprocessing.get_context("fork").Pool(2) as pool: print(pool.map(work, [1, 2, 3]))
            print(subprocess.run([sys.executable, "-c", "print(6 * 7)"], capture_output=True, text=True).stdout.strip())
            print(subprocess.run(["sh", "-c", "echo shell"], capture_output=True, text=True).stdout.strip())
            print(asyncio.run(asyncio.sleep(0, "slept")), done)
        """,
    )
    assert found.splitlines() == ["[1, 4, 9]", "42", "shell", "slept [1]"]
    ended = await node(
        backend,
        """
        const {Worker} = require('worker_threads');
        new Worker('require("worker_threads").parentPort.postMessage(42)', {eval: true}).on('message', m => {
          console.log(m, require('child_process').execSync('echo child').toString().trim());
        });
        """,
    )
    assert ended.stdout == b"42 child\n", ended.stderr


async def test_an_uncaught_error_shows_only_the_users_frames(backend: Backend) -> None:
    ended = await python(backend, "def f():\n    raise ValueError('mine')\nf()\n")
    assert ended.exit_code == 1
    assert ended.stderr.decode().splitlines()[-1] == "ValueError: mine"
    assert "guest" not in ended.stderr.decode()
    ended = await python(backend, "def f(:\n")
    assert b"SyntaxError" in ended.stderr
    assert b"guest" not in ended.stderr


async def test_how_it_ends(backend: Backend) -> None:
    ways = {
        "exit()": (0, Reason.EXIT),
        "import sys; sys.exit('said')": (1, Reason.EXIT),
        "import os; os._exit(77)": (77, Reason.EXIT),
        "import os; os.kill(os.getpid(), 15)": (143, Reason.SIGNAL),
        "import os; os.kill(os.getpid(), 9)": (137, Reason.SIGNAL),
        "import ctypes; ctypes.string_at(0)": (139, Reason.SIGNAL),
        "import os; os.abort()": (134, Reason.SIGNAL),
    }
    for code, expected in ways.items():
        ended = await python(backend, code)
        assert (ended.exit_code, ended.reason) == expected, code


async def test_a_timeout_is_124_and_what_was_written_stays(backend: Backend) -> None:
    began = time.monotonic()
    ended = await python(backend, "print('so far', flush=True)\nwhile True: pass", limits=Limits(timeout_ms=300))
    assert (ended.exit_code, ended.reason, ended.stdout) == (124, Reason.TIMEOUT, b"so far\n")
    assert time.monotonic() - began < 30
    assert 0 < ended.usage.cpu_ms < 600
    assert 300 <= ended.usage.duration_ms < 30_000


async def test_sleeping_is_ended_too_and_costs_nothing(backend: Backend) -> None:
    ended = await python(backend, "import time; time.sleep(60)", limits=Limits(timeout_ms=200))
    assert (ended.exit_code, ended.reason) == (124, Reason.TIMEOUT)
    assert ended.usage.cpu_ms < 150  # of 200 ms


async def test_a_run_can_be_stopped(backend: Backend) -> None:
    handle = Handle()

    def sink(stream: Stream, data: bytes) -> None:
        handle.stop()

    made = job("print('here', flush=True)\nimport time; time.sleep(60)", limits=Limits(timeout_ms=30_000))
    ended = await backend.run(made, handle, sink)
    assert (ended.exit_code, ended.reason, ended.stdout) == (143, Reason.STOPPED, b"here\n")


async def test_stopped_before_it_started(backend: Backend) -> None:
    handle = Handle()
    handle.stop()
    ended = await backend.run(job("print('never')\nimport time; time.sleep(60)"), handle)
    assert (ended.exit_code, ended.reason) == (143, Reason.STOPPED)


async def test_a_cancelled_run_leaves_nothing(backend: Backend) -> None:
    arrived = asyncio.Event()
    made = job("print(1, flush=True)\nimport time; time.sleep(60)", limits=Limits(timeout_ms=60_000))
    task = asyncio.create_task(backend.run(made, Handle(), lambda stream, data: arrived.set()))
    await arrived.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_output_arrives_while_it_runs(backend: Backend) -> None:
    heard: list[tuple[Stream, bytes]] = []
    code = """
        import sys, time
        print("one"); sys.stdout.flush(); time.sleep(0.3)
        print("two", file=sys.stderr); time.sleep(0.3)
        print("three")
    """
    await python(backend, code, sink=lambda stream, data: heard.append((stream, data)), is_streamed=True)
    whole = [
        (stream, b"".join(data for _, data in pieces))  # a line on the error stream may come in two writes
        for stream, pieces in itertools.groupby(heard, key=lambda piece: piece[0])
    ]
    assert whole == [(Stream.STDOUT, b"one\n"), (Stream.STDERR, b"two\n"), (Stream.STDOUT, b"three\n")]


async def test_output_is_cut_at_its_limit(backend: Backend) -> None:
    ended = await python(backend, "while True: print('x' * 99)", limits=Limits(output_bytes=100_000))
    assert (ended.exit_code, ended.reason, ended.is_truncated) == (153, Reason.OUTPUT, True)
    assert len(ended.stdout) == 100_000
    ended = await python(
        backend,
        "import os, sys\nwhile True: os.write(1, b'o' * 1000); os.write(2, b'e' * 1000)",
        limits=Limits(output_bytes=50_000),
    )
    assert ended.reason is Reason.OUTPUT
    assert len(ended.stdout) + len(ended.stderr) == 50_000


async def test_any_bytes_come_out(backend: Backend) -> None:
    ended = await python(backend, "import os; os.write(1, bytes(range(256)) * 300); os.write(2, b'\\0\\xff' * 9)")
    assert ended.stdout == bytes(range(256)) * 300
    assert ended.stderr == b"\0\xff" * 9


async def test_code_may_be_any_bytes(backend: Backend) -> None:
    ended = await python(backend, b"print('a\0b')")
    assert ended.exit_code == 1
    assert b"null bytes" in ended.stderr
    ended = await python(backend, b"print('\xff')")
    assert ended.exit_code == 1
    assert b"SyntaxError" in ended.stderr
    assert (await python(backend, b"# -*- coding: latin-1 -*-\nprint(len('\xff'))")).stdout == b"1\n"


async def test_ten_megabytes_of_code_and_a_thousand_files(backend: Backend) -> None:
    files = tuple(SourceFile(f"d{n % 10}/f{n}.txt", b"%d" % n) for n in range(1000))
    code = b"import os; print(sum(len(f) for _, _, f in os.walk('.')))\n#" + b"x" * (10 * MIB)
    ended = await python(backend, code, more_files=files)
    assert ended.stdout == b"1001\n", ended.stderr


async def test_files_left_in_out_come_back(backend: Backend) -> None:
    ended = await python(
        backend,
        """
        import os
        os.makedirs("out/deep/er")
        open("out/a.txt", "w").write("A"); open("out/deep/er/b.bin", "wb").write(bytes(range(256)))
        open("elsewhere", "w").write("not this")
        os._exit(4)
        """,
    )
    assert ended.exit_code == 4
    assert {a.path: a.content for a in ended.artifacts} == {"a.txt": b"A", "deep/er/b.bin": bytes(range(256))}


async def test_too_many_or_too_large_artifacts_are_counted_not_returned(backend: Backend) -> None:
    limits = Limits(timeout_ms=60_000, artifact_bytes=1000, artifact_count=3)
    code = "for n in range(5): open(f'out/{n}', 'w').write('x' * 100)\nopen('out/big', 'w').write('x' * 901)"
    ended = await python(backend, code, limits=limits)
    assert len(ended.artifacts) == 3
    assert ended.artifacts_omitted == 3


async def test_unread_input_is_no_error(backend: Backend) -> None:
    ended = await python(backend, "print('done')", stdin=b"x" * (4 * MIB))
    assert (ended.exit_code, ended.stdout) == (0, b"done\n")


# -- figures, measured from outside


async def test_memory_is_limited_for_all_processes_together(backend: Backend) -> None:
    limits = Limits(timeout_ms=60_000, memory_mb=64)
    ended = await python(backend, "x = bytearray(200 << 20)", limits=limits)
    assert (ended.exit_code, ended.reason) == (137, Reason.OOM)
    assert 60 <= ended.usage.memory_mb <= 66
    ended = await python(
        backend,
        """
        import os, time
        for _ in range(20):
            if os.fork() == 0:
                x = bytearray(20 << 20); time.sleep(30); os._exit(0)
        for _ in range(20): os.wait()
        raise SystemExit(5)
        """,
        limits=Limits(timeout_ms=3_000, memory_mb=64),
    )
    assert ended.reason in (Reason.OOM, Reason.TIMEOUT)
    assert ended.usage.memory_mb <= 66


async def test_cpu_of_every_process_is_billed(backend: Backend) -> None:
    """A child that double-forks away and a pool of busy threads cost as much as the main process itself."""
    burn = "import time\ndef burn(s):\n    end = time.process_time() + s\n    while time.process_time() < end: pass\n"
    ended = await python(backend, burn + "burn(0.3)")
    assert 290 <= ended.usage.cpu_ms <= 500
    ended = await python(
        backend,
        burn
        + """
import os
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        burn(0.3)
        open("/workspace/done", "w").close()
    os._exit(0)
while not os.path.exists("/workspace/done"): time.sleep(0.01)
""",
    )
    assert 290 <= ended.usage.cpu_ms <= 600
    ended = await python(
        backend,
        """
        import hashlib, threading
        def work():
            for _ in range(12): hashlib.pbkdf2_hmac("sha256", b"x", b"y", 20_000)
        threads = [threading.Thread(target=work) for _ in range(4)]
        [t.start() for t in threads]; [t.join() for t in threads]
        import time; print(time.process_time() * 1000)
        """,
    )
    own = float(ended.stdout)
    assert own > 100
    assert own * 0.97 <= ended.usage.cpu_ms <= own * 1.1 + 100


async def test_a_small_run_costs_little(backend: Backend) -> None:
    await asyncio.sleep(0)
    ended = await python(backend, "print('hello')")
    assert ended.usage.cpu_ms < 200
    assert ended.usage.memory_mb < 40


async def test_the_end_of_a_program_is_an_end(backend: Backend) -> None:
    """Threads are waited for, exit functions run, files that nobody closed are written, objects are finalised."""
    found = await python(
        backend,
        """
        import atexit, helper, sys, threading, time
        atexit.register(lambda: print("exit function"))
        threading.Thread(target=lambda: (time.sleep(0.1), print("thread"))).start()
        unclosed = open("out/unclosed", "w"); unclosed.write("written")
        class Last:
            def __del__(self): print("finalised")
        last = Last()
        sys.stdout.write("main\\n")
        """,
        more_files=(SourceFile("helper.py", b"f = open('out/helper', 'w'); f.write('too')"),),
    )
    assert found.stdout.decode().split("\n")[:-1] == ["main", "thread", "exit function", "finalised"], found.stderr
    assert {a.path: a.content for a in found.artifacts} == {"unclosed": b"written", "helper": b"too"}
    assert (
        await python(backend, "import atexit; atexit.register(lambda: 1 / 0); raise SystemExit(300)")
    ).exit_code == 44
    assert (await python(backend, "import sys; sys.stdout = None; sys.stderr.close()")).exit_code == 0
