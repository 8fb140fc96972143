"""Makes a run's proxy look like the network, in a jail that has only loopback. One thread of PID 1.

Any name resolves to an address of 127.77/16 that is remembered; connections to ports 80 and 443 of it are handed to the
proxy as CONNECT to that name. Port 3128 leads to the proxy itself. What may be reached is the proxy's to decide.
"""

import os
import selectors
import socket
import struct
import threading

PORTS = (80, 443)
PROXY_PORT = 3128
PIECE = 65_536


class Side:
    """One end of a connection. `peer` is the other; `waiting` is what could not be written to this one yet."""

    def __init__(self, sock, greeting=b""):
        self.sock = sock
        self.peer = None
        self.waiting = greeting
        self.is_answered = not greeting  # the proxy's answer to CONNECT is not the program's to see
        self.answer = b""
        self.has_ended = False


class Relay:
    def __init__(self, path):
        self.path = path
        self.names = {}
        self.addresses = {}
        self.dns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.dns.bind(("127.0.0.1", 53))
        self.listeners = []
        for address, port in (*(("0.0.0.0", port) for port in PORTS), ("127.0.0.1", PROXY_PORT)):  # noqa: S104
            listener = socket.socket()
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((address, port))
            listener.listen(64)
            self.listeners.append(listener)

    def leave(self):
        """In the child that becomes the submitted program: keep no socket, and no right to bind low ports."""
        for sock in (self.dns, *self.listeners):
            sock.close()
        drop_capabilities()

    def start(self):
        self.selector = selectors.DefaultSelector()
        for sock in (self.dns, *self.listeners):
            sock.setblocking(False)
            self.selector.register(sock, selectors.EVENT_READ, None)
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            for key, events in self.selector.select():
                try:
                    if key.fileobj is self.dns:
                        self.answer_name()
                    elif key.data is None:
                        self.accept(key.fileobj)
                    else:
                        self.pass_on(key.data, events)
                except OSError:
                    if isinstance(key.data, Side):
                        self.close(key.data)

    def answer_name(self):
        query, client = self.dns.recvfrom(1500)
        at, labels = 12, []
        while at < len(query) and query[at]:
            labels.append(query[at + 1 : at + 1 + query[at]])
            at += 1 + query[at]
        end = at + 5
        if end > len(query) or query[4:6] != b"\0\1":
            return
        name = b".".join(labels).decode("latin-1").lower()
        kind = struct.unpack("!H", query[at + 1 : at + 3])[0]
        found = b""
        if kind == 1 and name:
            found = b"\xc0\x0c\0\1\0\1" + struct.pack("!IH", 60, 4) + socket.inet_aton(self.address_of(name))
        header = query[:2] + b"\x81\x80\0\1" + (b"\0\1" if found else b"\0\0") + b"\0\0\0\0"
        self.dns.sendto(header + query[12:end] + found, client)

    def address_of(self, name):
        if name not in self.addresses:
            number = len(self.addresses) + 1
            if number >= 65_000:
                return "127.77.255.255"
            address = f"127.77.{number >> 8}.{number & 255}"
            self.addresses[name] = address
            self.names[address] = name
        return self.addresses[name]

    def accept(self, listener):
        sock, _ = listener.accept()
        sock.setblocking(False)
        address, port = sock.getsockname()
        greeting = b""
        if port != PROXY_PORT:
            name = self.names.get(address)
            if name is None:
                sock.close()
                return
            greeting = f"CONNECT {name}:{port} HTTP/1.1\r\n\r\n".encode("latin-1")
        far = socket.socket(socket.AF_UNIX)
        far.connect(self.path)
        far.setblocking(False)
        near_side, far_side = Side(sock), Side(far, greeting)
        near_side.peer, far_side.peer = far_side, near_side
        for side in (near_side, far_side):
            self.selector.register(side.sock, selectors.EVENT_READ, side)
        self.watch(far_side)

    def watch(self, side):
        """Read from a side while its peer takes it, write to it while there is something to write."""
        events = 0
        if not side.has_ended and len(side.peer.waiting) < PIECE:
            events |= selectors.EVENT_READ
        if side.waiting:
            events |= selectors.EVENT_WRITE
        known = self.selector.get_map().get(side.sock.fileno())
        if known is None:
            if events:
                self.selector.register(side.sock, events, side)
        elif events:
            self.selector.modify(side.sock, events, side)
        else:
            self.selector.unregister(side.sock)

    def pass_on(self, side, events):
        if side.sock.fileno() < 0:
            return
        if events & selectors.EVENT_WRITE and side.waiting:
            side.waiting = side.waiting[side.sock.send(side.waiting) :]
            if not side.waiting and side.peer.has_ended:
                side.sock.shutdown(socket.SHUT_WR)
        if events & selectors.EVENT_READ:
            piece = side.sock.recv(PIECE)
            if not side.is_answered:
                if not self.has_answered(side, piece):
                    return
            elif piece:
                side.peer.waiting += piece
            else:
                side.has_ended = True
                if not side.peer.waiting:
                    side.peer.sock.shutdown(socket.SHUT_WR)
        if side.has_ended and side.peer.has_ended and not side.waiting and not side.peer.waiting:
            self.close(side)
            return
        self.watch(side)
        self.watch(side.peer)

    def has_answered(self, side, piece):
        """The proxy's answer to our CONNECT: True once it is yes. What came after it is the program's; no closes."""
        side.answer += piece
        head, mark, rest = side.answer.partition(b"\r\n\r\n")
        if not mark and piece and len(side.answer) < 8192:
            return False
        if not head.startswith(b"HTTP/1.1 200 "):
            self.close(side)
            return False
        side.is_answered = True
        side.peer.waiting += rest
        return True

    def close(self, side):
        for one in (side, side.peer):
            if one is not None and one.sock.fileno() >= 0:
                try:
                    self.selector.unregister(one.sock)
                except KeyError:
                    pass
                one.sock.setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                ) if one.waiting else None
                one.sock.close()


def drop_capabilities():
    """Give up what PID 1 was given to bind the ports above."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(47, 4, 0, 0, 0)  # PR_CAP_AMBIENT, CLEAR_ALL
    libc.prctl(24, 10, 0, 0, 0)  # PR_CAPBSET_DROP, CAP_NET_BIND_SERVICE
    header = struct.pack("=Ii", 0x20080522, 0)
    libc.capset(header, bytes(24))
    if os.path.exists("/proc/self/status"):
        status = open("/proc/self/status").read()  # noqa: SIM115
        if int(status.split("CapEff:")[1].split()[0], 16):
            os._exit(126)
