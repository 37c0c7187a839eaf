"""Which TCP addresses a process listens on."""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path

_LISTEN = "0A"


def listening(*processes: int) -> set[tuple[str, int]]:
    """Address and port of every listening socket of ``processes``; of this one by default."""
    inodes = set()
    for process in processes or (os.getpid(),):
        for link in Path(f"/proc/{process}/fd").iterdir():
            try:
                inodes.add(os.readlink(link))
            except FileNotFoundError:  # closed meanwhile
                continue
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == _LISTEN and f"socket:[{fields[9]}]" in inodes:
                found.add(_address(fields[1]))
    return found


def _address(text: str) -> tuple[str, int]:
    host, port = text.split(":")
    words = [struct.pack("=I", int(host[i : i + 8], 16)) for i in range(0, len(host), 8)]
    family = socket.AF_INET if len(words) == 1 else socket.AF_INET6
    return socket.inet_ntop(family, b"".join(words)), int(port, 16)
