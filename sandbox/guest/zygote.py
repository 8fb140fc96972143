"""The way to a jail where we are root: a process that has everything ready and clones itself into namespaces for each guest.

Started by the broker, as root, with an empty environment: `python zygote.py FD`. It enters a mount namespace that holds
what jails see and nothing of the machine, then waits on FD for messages `{uid, guest, workspace_bytes, small_bytes, masked}`
with a guest's three descriptors and those of the files by which it joins its cgroup, and answers each with a pid in digits,
or else with what went wrong. Messages are in marshal's form: the modules of JSON and sockets bring others with them, and
what is here is copied for each guest.

The clone joins its cgroup before all else, and ends where it cannot: so all that it ever starts is held. Its parent is the
broker (CLONE_PARENT); it is PID 1 of its own pid namespace. Before it becomes a guest it gives up everything: root, for a
user id of its own in a user namespace that maps nothing else; capabilities, also from the bounding set, over namespaces that
belong to the machine's user namespace anyway; more user namespaces; new privileges; system calls outside the filter.

Then the clone turns into a fresh interpreter (setup `command`), as bubblewrap's would. Without a command it goes on as the
guest itself, which saves the interpreter's start, more than all the rest together; but such guests share this one's memory
layout and hash seed with each other. What a run does stays in its own copy either way.
"""

import _signal
import _socket
import array
import ctypes
import fcntl
import gc
import marshal
import os
import resource
import struct
import sys

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND = 1, 2, 4, 8, 32, 4096
MS_REC, MS_PRIVATE = 16384, 1 << 18
CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC = 0x20000, 0x2000000, 0x4000000, 0x8000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET, CLONE_PARENT, SIGCHLD = 0x10000000, 0x20000000, 0x40000000, 0x8000, 17
INSIDE_UID = 1000
SYSTEM_CALLS = {"x86_64": (56, 155), "aarch64": (220, 41)}  # clone, pivot_root

libc = ctypes.CDLL(None, use_errno=True)


def check(result, what):
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def mount(source, target, kind, flags, data=None):
    encoded = [None if text is None else text.encode() for text in (source, target, kind, data)]
    check(libc.mount(*encoded[:3], ctypes.c_ulong(flags), encoded[3]), f"mount {target}")


def bind(source, target):
    mount(source, target, None, MS_BIND)  # not recursive: what is mounted below is none of a jail's business
    mount(None, target, None, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV)


def write(path, text, directory=None):
    descriptor = os.open(path, os.O_WRONLY, dir_fd=directory)
    os.write(descriptor, text)
    os.close(descriptor)


class Zygote:
    def __init__(self, control, setup):
        self.control = control
        self.setup = setup
        code = open(f"{setup['state']}/seccomp.bpf", "rb").read()  # noqa: SIM115
        self.filter = ctypes.create_string_buffer(code, len(code))
        self.program = ctypes.create_string_buffer(struct.pack("@HP", len(code) // 8, ctypes.addressof(self.filter)))
        self.clone, self.pivot_root = SYSTEM_CALLS[os.uname().machine]

    def enter(self):
        """Into a mount namespace with what jails see. Afterwards nothing of the machine can be named from here."""
        setup, root = self.setup, self.setup["state"] + "/root"
        check(libc.unshare(CLONE_NEWNS), "unshare")
        mount(None, "/", None, MS_REC | MS_PRIVATE)
        os.makedirs(root, exist_ok=True)
        mount("tmpfs", root, "tmpfs", MS_NOSUID, "mode=755,size=1m")
        for source, target in setup["binds"]:
            os.makedirs(root + target, exist_ok=True)
            bind(source, root + target)
        for target, link in setup["links"]:
            os.symlink(target, root + link)
        for name in ("proc", "dev", "workspace", "tmp", "old"):
            os.makedirs(f"{root}/{name}", exist_ok=True)
        mount("tmpfs", f"{root}/dev", "tmpfs", MS_NOSUID, "mode=755,size=64k")
        for name in setup["devices"]:
            open(f"{root}/dev/{name}", "w").close()
            mount(f"/dev/{name}", f"{root}/dev/{name}", None, MS_BIND)
            mount(None, f"{root}/dev/{name}", None, MS_BIND | MS_REMOUNT | MS_NOSUID | MS_NOEXEC)
        for name, link in setup["device_links"]:
            os.symlink(link, f"{root}/dev/{name}")
        os.mkdir(f"{root}/dev/shm")
        mount(None, f"{root}/dev", None, MS_REMOUNT | MS_RDONLY | MS_NOSUID)
        open(f"{root}/empty", "w").close()
        mount(None, root, None, MS_REMOUNT | MS_RDONLY | MS_NOSUID)
        os.chdir(root)
        check(libc.syscall(self.pivot_root, b".", b"old"), "pivot_root")
        os.chdir("/")
        check(libc.umount2(b"/old", 2), "umount")  # MNT_DETACH

    def serve(self):
        """Answer messages; returns the message in a clone, never in the zygote itself."""
        while True:
            numbers = array.array("i")
            data, ancillary, _, _ = self.control.recvmsg(65_536, _socket.CMSG_LEN(16 * numbers.itemsize))
            if not data:
                os._exit(0)
            for _, _, payload in ancillary:
                numbers.frombytes(payload)
            flags = CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID | CLONE_NEWNET | CLONE_PARENT | SIGCHLD
            pid = libc.syscall(self.clone, ctypes.c_ulong(flags), 0, 0, 0, 0)
            if pid == 0:
                return marshal.loads(data), list(numbers)  # noqa: S302 - from the broker, which started us
            for number in numbers:
                os.close(number)
            self.control.send((str(pid) if pid > 0 else os.strerror(ctypes.get_errno())).encode())

    def become(self, message, descriptors):
        """In the clone: a jail of its own around itself, and nothing left to give up. Raises OSError."""
        self.control.close()
        for descriptor in descriptors[3:]:
            os.write(descriptor, b"0")
        for target, descriptor in enumerate(descriptors[:3]):
            os.dup2(descriptor, target)
        os.closerange(3, 1024)
        os.setsid()
        check(libc.unshare(CLONE_NEWCGROUP), "unshare cgroup")
        uid = message["uid"]
        mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
        sysctls = os.open("/proc/sys", os.O_PATH | os.O_DIRECTORY)  # as it is before it is made read-only
        for name in message["masked"]:
            mount("/empty", f"/proc/{name}", None, MS_BIND)  # read-only as what it is in
        for name in ("sys", "sysrq-trigger", "irq", "bus", "fs"):
            if os.path.exists(f"/proc/{name}"):
                bind(f"/proc/{name}", f"/proc/{name}")
        size = f"size={message['workspace_bytes']},uid={uid},gid={uid},mode=755"
        mount("tmpfs", "/workspace", "tmpfs", MS_NOSUID | MS_NODEV, size)
        mount("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, f"size={message['workspace_bytes']},mode=1777")
        mount("tmpfs", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, f"size={message['small_bytes']},mode=1777")
        _socket.sethostname("sandbox")
        probe = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM)
        fcntl.ioctl(probe.fileno(), 0x8914, struct.pack("16sh14x", b"lo", 1 | 64))  # SIOCSIFFLAGS: up, running
        probe.close()
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024))
        resource.setrlimit(resource.RLIMIT_FSIZE, (message["workspace_bytes"],) * 2)
        resource.setrlimit(resource.RLIMIT_MSGQUEUE, (0, 0))
        for number in (_signal.SIGINT, _signal.SIGTERM, _signal.SIGHUP):
            _signal.signal(number, _signal.SIG_DFL)
        _signal.signal(_signal.SIGINT, _signal.default_int_handler)
        os.chdir("/workspace")
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        self.enter_user_namespace(uid, sysctls)
        os.close(sysctls)
        for capability in range(64):
            if libc.prctl(24, capability, 0, 0, 0) != 0:  # PR_CAPBSET_DROP
                break
        check(libc.capset(struct.pack("=Ii", 0x20080522, 0), bytes(24)), "capset")
        check(libc.prctl(1, 9, 0, 0, 0), "pdeathsig")
        check(libc.prctl(38, 1, 0, 0, 0), "no_new_privs")
        check(libc.prctl(4, 1, 0, 0, 0), "dumpable")
        check(libc.prctl(22, 2, self.program, 0, 0), "seccomp")

    def enter_user_namespace(self, uid, sysctls):
        """In which our user is the only one there is, and which is the last."""
        check(libc.unshare(CLONE_NEWUSER), "unshare user")
        check(libc.prctl(4, 1, 0, 0, 0), "dumpable")  # so that /proc/self is ours
        for name, text in (
            ("setgroups", b"deny"),
            ("gid_map", b"%d %d 1" % (INSIDE_UID, uid)),
            ("uid_map", b"%d %d 1" % (INSIDE_UID, uid)),
        ):
            write(f"/proc/self/{name}", text)
        write("user/max_user_namespaces", b"0", sysctls)


def main():
    control = _socket.socket(fileno=int(sys.argv[1]))
    setup = marshal.loads(control.recv(65_536))  # noqa: S302
    if setup["command"] is None:
        sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
        import guest

        sys.path.pop(0)
        for module in setup["imports"]:
            __import__(module)
        guest.prepare()
    gc.collect()
    gc.freeze()
    zygote = Zygote(control, setup)
    try:
        zygote.enter()
    except OSError as error:  # such as a container's root, which may not mount
        control.send(str(error).encode())
        return
    control.send(b"0")
    message, descriptors = zygote.serve()
    try:
        zygote.become(message, descriptors)
        if setup["command"] is not None:
            os.execve(setup["command"][0], [*setup["command"], *message["guest"]], {})
    except BaseException as error:  # noqa: BLE001 - a clone must not go on as a second zygote
        os.write(2, f"cannot make a jail: {error!r}\n".encode())
        os._exit(127)
    sys.argv = ["guest.py", *message["guest"]]
    guest.main()


if __name__ == "__main__":
    main()
