"""A process for student code: no network, nothing to read but Python, nothing to write but scratch.

With bubblewrap (``bwrap``, Debian and Ubuntu package ``bubblewrap``) the worker has its own user,
process, network and mount namespaces and a scratch folder in memory that vanishes with it. Without
it, limits hold but files and the network stay within reach: the command says so.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tools.grading import seccomp

HERE = Path(__file__).resolve().parent
SCRATCH = "/tmp"  # inside the sandbox
NOBODY = 65534
OUTPUT_KEPT = 20_000  # bytes of what a submission prints
PERIOD = 0.2  # seconds between two looks at a worker's memory
MB = 1 << 20


@dataclass(frozen=True)
class Limits:
    """What one submission may use."""

    seconds: int = 120  # of processor time, for one cell and for one question's tests
    total_seconds: int = 1800  # by the clock, for the whole submission
    memory_mb: int = 4096
    scratch_mb: int = 64
    processes: int = 64  # threads count too

    @property
    def too_much(self) -> str:
        """The words for a worker that was too large: the same whichever limit it met first."""
        return f"used more than {self.memory_mb} MB or {self.processes} processes"


def python_folders() -> list[str]:
    """Return the folders that Python and effedu are imported from: all that a worker may read."""
    folders = [sys.base_prefix, sys.prefix]
    folders += [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    folders.append(str(HERE.parents[1] / "effedu"))
    kept: list[str] = []
    for folder in sorted({os.path.realpath(folder) for folder in folders} | set(folders)):
        inside = any(Path(folder).is_relative_to(other) for other in [*kept, "/usr"])
        if os.path.isdir(folder) and not inside:
            kept.append(folder)
    return kept


def environment(home: str) -> dict[str, str]:
    """Return the environment of a worker: nothing of the grader's own."""
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": home,
        "TMPDIR": home,
        "MPLCONFIGDIR": home,
        "IPYTHONDIR": home,
        "LANG": "C.UTF-8",
        "USER": "student",
        "LOGNAME": "student",
        "MPLBACKEND": "agg",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
        "PYTHONPATH": str(HERE.parents[1]),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PIP_NO_INDEX": "1",  # a pip cell fails at once instead of waiting for a network
        "PIP_RETRIES": "0",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }


def bubblewrap(limits: Limits, command: list[str], seccomp_fd: int | None = None) -> list[str]:
    """Return the command line that runs ``command`` inside bubblewrap."""
    size = str(limits.scratch_mb * MB)
    # When the machine runs out of memory, the kernel ends a submission first.
    first = [path, "-n", "1000", "--"] if (path := shutil.which("choom")) else []
    line = [*first, shutil.which("bwrap") or "bwrap", "--unshare-all", "--unshare-user"]
    line += ["--disable-userns", "--die-with-parent", "--new-session", "--cap-drop", "ALL"]
    line += ["--uid", "1000", "--gid", "1000", "--hostname", "sandbox", "--clearenv"]
    line += ["--ro-bind", "/usr", "/usr"]
    for folder in ("/bin", "/sbin", "/lib", "/lib64"):
        if os.path.islink(folder):
            line += ["--symlink", os.readlink(folder), folder]
        else:
            line += ["--ro-bind-try", folder, folder]
    for file in ("/etc/ld.so.cache", "/etc/alternatives", "/etc/localtime"):
        line += ["--ro-bind-try", file, file]
    # Read-only: to root the kernel's settings in /proc/sys are open whatever the namespace.
    line += ["--proc", "/proc", "--remount-ro", "/proc"]
    line += ["--dev", "/dev", "--size", str(16 * MB), "--tmpfs", "/dev/shm"]
    line += ["--remount-ro", "/dev", "--size", size, "--tmpfs", SCRATCH]
    for folder in python_folders():
        line += ["--ro-bind", folder, folder]
    line += ["--dir", f"{SCRATCH}/work", "--chdir", f"{SCRATCH}/work"]
    for name in ("worker.py", "codec.py"):
        line += ["--ro-bind", str(HERE / name), f"/grader/{name}"]
    line += ["--remount-ro", "/"]
    for name, value in environment(f"{SCRATCH}/work").items():
        line += ["--setenv", name, value]
    if seccomp_fd is not None:
        line += ["--seccomp", str(seccomp_fd)]
    return [*line, "--", *command]


@functools.cache
def find() -> tuple[str, int | None]:
    """Return what keeps submissions apart here: ("bubblewrap", user to start it as) or why not.

    Root starts it as nobody, because the kernel holds root to no number of processes.
    """
    if not shutil.which("bwrap"):
        return "bubblewrap is not installed (Debian, Ubuntu: apt install bubblewrap)", None
    words = "bubblewrap does not start"
    for user in [NOBODY, None] if os.geteuid() == 0 else [None]:
        with seccomp.filter_file() as fds:
            line = bubblewrap(Limits(), [sys.executable, "-c", "import IPython"], *fds)
            try:
                done = subprocess.run(
                    line, capture_output=True, text=True, pass_fds=fds, **as_user(user)
                )
            except OSError as problem:
                words = f"bubblewrap does not start: {problem}"
                continue
        if done.returncode == 0:
            return "bubblewrap", user
        words = f"bubblewrap does not work here: {done.stderr.strip()[-300:]}"
    return words, None


def as_user(user: int | None) -> dict[str, object]:
    """Return the arguments with which ``subprocess`` starts a process as ``user``."""
    return {} if user is None else {"user": user, "group": user, "extra_groups": []}


WARNING = """\
WARNING: {reason}.
Submissions run with limits on time, memory and processes, but WITHOUT a sandbox: their code can
read your files and each other's submissions, and use the network. Grade only code that you trust,
or install bubblewrap."""


@dataclass
class Sandbox:
    """A running worker: a channel to talk to it, what it printed, and why it ended."""

    limits: Limits
    isolated: bool
    user: int | None = None
    output: bytearray = field(default_factory=bytearray)
    reason: str = ""  # why it was stopped, in words
    allowed: float = math.inf  # seconds of processor time from ``mark`` on
    mark: float | None = None
    token: str = field(default_factory=lambda: secrets.token_hex(16))

    def start(self) -> None:
        """Start the worker. ``close`` has to follow, whatever happens in between."""
        self.channel, theirs = socket.socketpair()
        self.folder = None if self.isolated else tempfile.mkdtemp(prefix="grade-")
        with theirs, seccomp.filter_file() as fds:
            python = [sys.executable, "-u"]
            number = str(theirs.fileno())
            if self.isolated:
                line = bubblewrap(self.limits, [*python, "/grader/worker.py", number], *fds)
                env, cwd, user = {}, "/", self.user
            else:
                line = [*python, str(HERE / "worker.py"), number]
                env = environment(self.folder) | {"GRADING_TOKEN": self.token}
                cwd, user = self.folder, None
            self.process = subprocess.Popen(
                line,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=[theirs.fileno(), *fds],
                env=env,
                cwd=cwd,
                start_new_session=True,
                **as_user(user),
            )
        self.parent = os.getppid()
        self.stopping = threading.Event()
        self.drainer = threading.Thread(target=self.drain, daemon=True)
        self.watcher = threading.Thread(target=self.watch, daemon=True)
        self.drainer.start()
        self.watcher.start()

    def rlimits(self) -> dict[str, int]:
        """Return the limits that the kernel holds each process of the worker to.

        A torch built for CUDA maps gigabytes that it never uses: then ``watch`` alone counts.
        """
        torch = sys.modules.get("torch")
        unused = 8192 if torch is not None and torch.version.cuda else 0
        others = 0  # processes of this user; a namespace starts counting at nought
        if not self.isolated:
            for process in psutil.process_iter():
                with contextlib.suppress(psutil.Error):
                    others += process.num_threads() if process.uids().real == os.getuid() else 0
        return {
            "CPU": self.limits.total_seconds + 5,
            "AS": (self.limits.memory_mb + unused) * MB,
            "FSIZE": self.limits.scratch_mb * MB,
            "NPROC": self.limits.processes + others,
            "NOFILE": 256,
            "CORE": 0,
        }

    def allow(self, seconds: float) -> None:
        """From here on the worker may use so many seconds of processor time."""
        self.allowed, self.mark = seconds, None

    def drain(self) -> None:
        """Read what the submission prints, so that it never waits for us; keep the beginning."""
        while part := os.read(self.process.stdout.fileno(), 1 << 16):
            self.output += part[: max(0, OUTPUT_KEPT - len(self.output))]

    def watch(self) -> None:
        """Stop a worker whose processes together use too much memory or time, or are too many.

        The kernel's own limits are for single processes, and root escapes the one on their number.
        Time is the processor's, so that a busy machine changes nobody's grade.
        """
        while not self.stopping.wait(PERIOD):
            used, count, time_used = 0, 0, 0.0
            for process in self.processes():
                with contextlib.suppress(psutil.Error):
                    used += process.memory_info().rss
                    time_used += sum(process.cpu_times()[:4])
                    count += 1
            if self.mark is None:
                self.mark = time_used
            if time_used - self.mark > self.allowed:
                return self.kill(f"took longer than {self.allowed:g} s")
            most = self.limits.processes + 8  # bubblewrap's own are among them
            if used > self.limits.memory_mb * MB or count > most:
                return self.kill(self.limits.too_much)
            if os.getppid() != self.parent:  # the command was killed: nobody waits for us
                self.kill()
                self.sweep()
                os._exit(1)

    def processes(self) -> list[psutil.Process]:
        """Return the worker's processes."""
        with contextlib.suppress(psutil.Error):
            first = psutil.Process(self.process.pid)
            return [first, *first.children(recursive=True)]
        return []

    def kill(self, reason: str = "") -> None:
        """End every process of the worker; the first reason stands."""
        self.reason = self.reason or reason
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)  # with bwrap's its whole namespace goes
        if not self.isolated:
            self.kill_strays()

    def kill_strays(self) -> None:
        """Without a process namespace: end what carries this worker's mark, wherever it went."""
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if process.environ().get("GRADING_TOKEN") == self.token:
                    process.kill()

    def close(self) -> None:
        """End the worker and remove what it left."""
        self.stopping.set()
        self.watcher.join(timeout=5)  # or it might end a process that got this one's number
        self.channel.close()
        self.kill()
        self.process.wait()
        if not self.isolated:
            self.kill_strays()  # those that a fork bomb made meanwhile
        self.drainer.join(timeout=5)
        self.sweep()

    def sweep(self) -> None:
        """Remove the scratch folder; bubblewrap's is in memory and gone already."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
