"""PID 1 of a jail: waits for one job on stdin, runs it as a child, packs what it left, says how it ended.

Started ahead of time, so that a job meets a warm interpreter: Python code runs in a fork of this process, Node code in a
Node that this process started and that waits for its word on descriptor 3. It imports as little as possible: every
millisecond here is paid for each run. The wire is described in this package's docstring.
"""

import gc
import os
import sys

WORKSPACE = "/workspace"
OUT = b"/workspace/out"
READY = b"\x06"
EGRESS = "/run/egress.sock"


def read_exactly(size):
    chunks = []
    while size:
        chunk = os.read(0, min(size, 1 << 20))
        if not chunk:
            os._exit(0)  # nobody has a job for this guest
        chunks.append(chunk)
        size -= len(chunk)
    return b"".join(chunks)


def read_list():
    data = read_exactly(int.from_bytes(read_exactly(4), "big"))
    items, at = [], 0
    while at < len(data):
        start = at + 4
        at = start + int.from_bytes(data[at:start], "big")
        items.append(data[start:at])
    return items


def write_list(descriptor, items, before=b""):
    data = b"".join([len(item).to_bytes(4, "big") + item for item in items])
    data = before + len(data).to_bytes(4, "big") + data
    while data:
        data = data[os.write(descriptor, data) :]


class Job:
    """nonce, flags, entrypoint, caps; then counted args, environment (name, value) and files (path, content)."""

    def __init__(self, items):
        take = iter(items).__next__
        self.nonce = take()
        self.flags = take().split()
        self.entry = take()
        self.max_files, self.max_bytes = (int(word) for word in take().split())
        self.args = [take() for _ in range(int(take()))]
        self.env = [(take(), take()) for _ in range(int(take()))]
        self.files = [(take(), take()) for _ in range(int(take()))]


def unpack(files):
    made = {WORKSPACE.encode()}
    for path, content in files:
        full = os.path.join(WORKSPACE.encode(), path)
        parent = os.path.dirname(full)
        if parent not in made:
            os.makedirs(parent, exist_ok=True)
            made.add(parent)
        descriptor = os.open(full, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        while content:
            content = content[os.write(descriptor, content) :]
        os.close(descriptor)
    try:
        os.mkdir(OUT)
    except FileExistsError:  # one of the files is in it
        pass


def prepare():
    """What every program needs once, done before there is a job: no run waits for it, and clones of a zygote inherit it."""
    import _sitebuiltins  # what site is made of: exit(), help() and friends, without the rest of it
    import atexit  # noqa: F401 - for the end
    import builtins

    here = os.path.dirname(os.__file__)
    builtins.quit = _sitebuiltins.Quitter("quit", "Ctrl-D (i.e. EOF)")
    builtins.exit = _sitebuiltins.Quitter("exit", "Ctrl-D (i.e. EOF)")
    builtins.copyright = _sitebuiltins._Printer("copyright", sys.copyright)
    builtins.credits = _sitebuiltins._Printer("credits", "See www.python.org for more information.")
    builtins.license = _sitebuiltins._Printer(
        "license", "See https://www.python.org/psf/license/", ["LICENSE.txt", "LICENSE"], [here]
    )
    builtins.help = _sitebuiltins._Helper()
    compile("", "", "exec")  # the first one makes the types of the syntax tree: half a millisecond
    prepare.last = next(reversed(sys.modules))


def run_python(job):
    """In the child: become the submitted program. Never returns."""
    entry = os.path.join(WORKSPACE, os.fsdecode(job.entry))
    os.environ.clear()
    for name, value in job.env:
        os.environb[name] = value
    os.chdir(WORKSPACE)
    sys.argv = [entry, *map(os.fsdecode, job.args)]
    sys.path.insert(0, os.path.dirname(entry))
    if os.path.isdir("/pkgs"):
        sys.path.append("/pkgs")
    sys.dont_write_bytecode = True
    if b"streamed" in job.flags:
        sys.stdout.reconfigure(line_buffering=True)
    module = type(sys)("__main__")
    module.__file__ = entry
    module.__builtins__ = __builtins__
    run_python.guest = sys.modules["__main__"]
    sys.modules["__main__"] = module
    code = 0
    try:
        with open(entry, "rb") as file:
            program = compile(file.read(), entry, "exec", dont_inherit=True)
        exec(program, module.__dict__)  # noqa: S102 - the purpose of this program
    except SystemExit as wanted:
        code = wanted.code
        if code is None:
            code = 0
        elif not isinstance(code, int):
            print(code, file=sys.stderr)
            code = 1
    except KeyboardInterrupt:
        code = 130
    except BaseException as error:  # noqa: BLE001 - as the interpreter itself does
        traceback = error.__traceback__.tb_next
        sys.excepthook(type(error), error.with_traceback(traceback), traceback)
        code = 1
    finish(code)


def finish(code):
    """End as an interpreter does, without taking apart what is not the program's: that costs more than most runs.

    Threads are waited for and exit functions run; then the program's own modules are emptied, so that what they hold, such
    as a file that was never closed, is finished; then output is flushed.
    """
    try:
        if "threading" in sys.modules:
            sys.modules["threading"]._shutdown()
        import atexit

        atexit._run_exitfuncs()
    except BaseException as error:  # noqa: BLE001
        sys.excepthook(type(error), error, error.__traceback__)
    modules = [sys.modules["__main__"]] if "__main__" in sys.modules else []
    for name in reversed(sys.modules):  # not those from before: only to look at them would copy the pages they are in
        if name == prepare.last:
            break
        modules.append(sys.modules[name])
    for module in modules:
        file = getattr(module, "__file__", None)
        if isinstance(file, str) and file.startswith(("/workspace/", "/pkgs/")):
            module.__dict__.clear()
    module = modules = None
    gc.collect()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BaseException:  # noqa: BLE001, S110 - closed, or replaced by something else
            pass
    os._exit(code & 0xFF)


def start_node(command):
    """A Node that waits for its job on descriptor 3; returns its pid and our end of that pipe."""
    theirs, ours = os.pipe()
    pid = os.fork()
    if pid == 0:
        import _signal  # what signal is made of, without its enums

        for number in (_signal.SIGPIPE, _signal.SIGXFSZ):  # which Python ignores
            _signal.signal(number, _signal.SIG_DFL)
        os.close(ours)
        os.dup2(theirs, 3)
        os.set_inheritable(3, True)  # also if it was 3 already
        os.execve(command[0], command, {})
    os.close(theirs)
    return pid, ours


def pack(job):
    """Regular files below /workspace/out, without following any link: paths, contents, and how many did not fit."""
    items, omitted, room, pending = [], 0, job.max_bytes, [OUT]
    while pending:
        try:
            entries = sorted(os.scandir(pending.pop()), key=lambda entry: entry.name)
        except OSError:
            continue
        omitted += max(0, len(entries) - 10_000)
        for entry in entries[:10_000]:
            try:
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
                    continue
                if not entry.is_file(follow_symlinks=False):
                    omitted += 1
                    continue
                descriptor = os.open(entry.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
                size = os.fstat(descriptor).st_size
                if size > room or len(items) >= 2 * job.max_files:
                    os.close(descriptor)
                    omitted += 1
                    continue
                content = b""
                while len(content) < size and (more := os.read(descriptor, size - len(content))):
                    content += more
                os.close(descriptor)
            except OSError:
                omitted += 1
                continue
            room -= len(content)
            items += [entry.path[len(OUT) + 1 :], content]
    return items, omitted


def is_disk_full():
    for path in (WORKSPACE, "/tmp", "/dev/shm"):
        found = os.statvfs(path)
        if found.f_bavail * found.f_frsize < 65_536 or (found.f_files and found.f_favail < 16):
            return True
    return False


def relay():
    """Make the run's proxy look like the network: names resolve to addresses of ours, whose ports lead to the proxy."""
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    from relay import Relay

    sys.path.pop(0)
    return Relay(EGRESS)


def main():
    """Serve one job. Never returns."""
    if os.getpid() != 1:  # its kill(-1) at the end would reach every process of the machine
        sys.exit("the guest runs only as PID 1 of a jail or container")
    language, node = sys.argv[1], sys.argv[2:]
    child = go = network = None
    if language == "node":
        child, go = start_node(node)
    elif not hasattr(prepare, "last"):
        prepare()
    if language == "python":
        os.write(2, READY)  # Node says so itself, once it has started: that is not the run's to pay
    job = Job(read_list())
    unpack(job.files)
    if b"egress" in job.flags:
        network = relay()
    if language == "node":
        streamed = b"1" if b"streamed" in job.flags else b""
        entry = WORKSPACE.encode() + b"/" + job.entry
        write_list(
            go, [streamed, entry, b"%d" % len(job.args), *job.args, *[item for pair in job.env for item in pair]]
        )
        os.close(go)
    else:
        gc.freeze()  # what is here by now is not the program's to collect
        child = os.fork()
        if child == 0:
            if network is not None:
                network.leave()
            run_python(job)
    os.close(0)
    os.close(1)
    if network is not None:
        network.start()
    ended, status = os.waitpid(-1, 0)
    while ended != child:
        ended, status = os.waitpid(-1, 0)
    try:
        os.kill(-1, 9)  # whatever it left running: the run is over when its main process is
    except ProcessLookupError:
        pass
    try:
        while True:
            os.waitpid(-1, 0)
    except ChildProcessError:
        pass
    files, omitted = pack(job)
    os.set_blocking(2, True)  # a Node that was killed has left it otherwise
    how = b"signal %d" % os.WTERMSIG(status) if os.WIFSIGNALED(status) else b"exit %d" % os.WEXITSTATUS(status)
    write_list(2, [how, b"%d" % is_disk_full(), b"%d" % omitted, *files], before=job.nonce)
    os._exit(0)


if __name__ == "__main__":
    main()
