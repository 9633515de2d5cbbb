"""The system calls that a submission does without, as a filter for the kernel (seccomp-BPF).

Namespaces keep a submission from files and networks. What is left is memory that belongs to no
process and so escapes every limit (memfd, System V), kinds of sockets that no namespace holds back
(a virtual machine's line to its host), and rarely needed parts of the kernel that have been a way
out of sandboxes before.
"""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import struct
from collections.abc import Iterator

INSTRUCTION = struct.Struct("=HBBI")
LOAD, EQUAL, AT_LEAST, RETURN = 0x20, 0x15, 0x35, 0x06
ALLOW, ERROR, KILL = 0x7FFF0000, 0x00050000, 0x80000000
NUMBER, ARCHITECTURE, FIRST_ARGUMENT = 0, 4, 16  # in what the kernel hands to the filter
X32 = 0x40000000  # calls of another numbering begin here on x86-64

# machine → its number for the kernel, and of each call
MACHINES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
REFUSED = {
    "memfd_create": {"x86_64": 319, "aarch64": 279},
    "memfd_secret": {"x86_64": 447, "aarch64": 447},
    "shmget": {"x86_64": 29, "aarch64": 194},
    "ptrace": {"x86_64": 101, "aarch64": 117},
    "bpf": {"x86_64": 321, "aarch64": 280},
    "perf_event_open": {"x86_64": 298, "aarch64": 241},
    "userfaultfd": {"x86_64": 323, "aarch64": 282},
    "io_uring_setup": {"x86_64": 425, "aarch64": 425},
    "add_key": {"x86_64": 248, "aarch64": 217},
    "request_key": {"x86_64": 249, "aarch64": 218},
    "keyctl": {"x86_64": 250, "aarch64": 219},
}
SOCKET = {"x86_64": 41, "aarch64": 198}
FAMILIES = (1, 2, 10, 16)  # Unix, IPv4, IPv6, netlink: each has a namespace


def program(machine: str) -> bytes:
    """Return the filter for a machine; empty where we know no numbers.

    >>> len(program("x86_64")) % 8, program("riscv64")
    (0, b'')
    """
    if machine not in MACHINES:
        return b""
    steps = [(LOAD, 0, 0, ARCHITECTURE), (EQUAL, 1, 0, MACHINES[machine]), (RETURN, 0, 0, KILL)]
    steps += [(LOAD, 0, 0, NUMBER), (AT_LEAST, 0, 1, X32), (RETURN, 0, 0, KILL)]
    for numbers in REFUSED.values():
        steps += [(EQUAL, 0, 1, numbers[machine]), (RETURN, 0, 0, ERROR | errno.EPERM)]
    families = [(LOAD, 0, 0, FIRST_ARGUMENT)]
    for family in FAMILIES:
        families += [(EQUAL, 0, 1, family), (RETURN, 0, 0, ALLOW)]
    families.append((RETURN, 0, 0, ERROR | errno.EAFNOSUPPORT))
    steps += [(EQUAL, 0, len(families), SOCKET[machine]), *families, (RETURN, 0, 0, ALLOW)]
    return b"".join(INSTRUCTION.pack(*step) for step in steps)


@contextlib.contextmanager
def filter_file() -> Iterator[list[int]]:
    """Hold a file descriptor from which bubblewrap reads the filter; none on other machines."""
    data = program(platform.machine())
    reading, writing = os.pipe()
    try:
        os.write(writing, data)
        os.close(writing)
        yield [reading] if data else []
    finally:
        os.close(reading)
