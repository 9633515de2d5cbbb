"""The student's side: run cells, answer calls. It starts inside the sandbox, with no test in it.

Whatever a submission does in here, it can only change its own answers: scores are made by the
judge, in another process. This file uses the standard library, IPython and ``codec.py`` alone.
"""

from __future__ import annotations

import builtins
import contextlib
import importlib.machinery
import os
import random
import resource
import socket
import sys
import traceback
import types
from typing import Any

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import codec

LONGEST_MESSAGE = 2000  # characters of an exception's text


def limit(limits: dict[str, int]) -> None:
    """Give up, for good, what a submission does not need."""
    for name, value in limits.items():
        number = getattr(resource, f"RLIMIT_{name}")
        _, most = resource.getrlimit(number)
        value = value if most == resource.RLIM_INFINITY else min(value, most)
        resource.setrlimit(number, (value, value))


class Inert:
    """Stands for otter in the notebook: its checks do nothing here, the judge does its own."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda *_, **__: None


def stub_otter() -> types.ModuleType:
    """Return a module ``otter`` whose ``Notebook`` does nothing."""
    module = types.ModuleType("otter")
    module.__spec__ = importlib.machinery.ModuleSpec("otter", None)
    module.Notebook = Inert  # type: ignore[attr-defined]
    module.__version__ = "0"  # type: ignore[attr-defined]
    return module


def describe(problem: BaseException) -> list[str]:
    """Return the exception as [builtin type, its own type, text]; it travels as data."""
    base = next(t.__name__ for t in type(problem).__mro__ if t is getattr(builtins, t.__name__, 0))
    try:
        text = str(problem)[:LONGEST_MESSAGE]
    except BaseException:
        text = ""
    return [base, str(type(problem).__name__)[:100], text]


class Worker:
    """Runs one notebook's cells in one IPython shell and keeps what is not data by number."""

    def __init__(self, channel: socket.socket) -> None:
        from IPython.core.interactiveshell import InteractiveShell
        from traitlets.config import Config

        class Shell(InteractiveShell):
            def enable_gui(self, gui: Any = None) -> None:
                """``%matplotlib inline`` asks for it; there is no window here."""

        config = Config()
        config.HistoryManager.enabled = False
        config.InteractiveShell.colors = "NoColor"
        self.channel = channel
        self.shell = Shell.instance(config=config)
        self.kept: list[Any] = []
        self.process = os.getpid()

    def keep(self, value: Any) -> dict[str, Any]:
        self.kept.append(value)
        name = str(type(value).__name__)[:100]
        return {"remote": len(self.kept) - 1, "type": name}

    def run(self, message: dict[str, Any], _: Any) -> Any:
        """Run a cell; an error is told, and the next cell runs all the same, as otter does."""
        result = self.shell.run_cell(message["source"], store_history=False)
        problem = result.error_before_exec or result.error_in_exec
        return {"raised": describe(problem)} if problem is not None else {"value": None}

    def get(self, message: dict[str, Any], encoder: codec.Encoder) -> Any:
        return {"value": encoder.encode(self.shell.user_ns.get(message["name"]))}

    def call(self, message: dict[str, Any], encoder: codec.Encoder, blobs: list[bytes]) -> Any:
        decoder = codec.Decoder(blobs, lambda coded: self.kept[coded["remote"]])
        function = self.kept[message["remote"]]
        args = decoder.decode(message["args"])
        kwargs = decoder.decode(message["kwargs"])
        if message["seed"] is not None and "torch" in sys.modules:
            sys.modules["torch"].set_rng_state(decoder.decode(message["seed"]))
        return {"value": encoder.encode(function(*args, **kwargs))}

    def answer(self, message: dict[str, Any], blobs: list[bytes]) -> None:
        """Do what the message asks and send what came of it."""
        encoder = codec.Encoder(self.keep)
        try:
            if message["do"] == "call":
                reply = self.call(message, encoder, blobs)
            else:
                reply = {"run": self.run, "get": self.get}[message["do"]](message, encoder)
        except BaseException as problem:  # also sys.exit and Ctrl-C inside a function
            with contextlib.suppress(BaseException):
                traceback.print_exception(problem, limit=-3)
            encoder, reply = codec.Encoder(), {"raised": describe(problem)}
        if os.getpid() != self.process:
            os._exit(0)  # a fork that a cell left running: one of us answers
        try:
            codec.send(self.channel, {**reply, "nonce": message["nonce"]}, encoder.blobs)
        except codec.TooLarge as problem:
            reply = {"raised": describe(problem), "nonce": message["nonce"]}
            codec.send(self.channel, reply, [])

    def serve(self) -> None:
        with contextlib.suppress(EOFError):
            while True:
                self.answer(*codec.receive(self.channel))


def main() -> None:
    channel = socket.socket(fileno=int(sys.argv[1]))
    sys.argv[:] = ["notebook"]
    message, blobs = codec.receive(channel)
    limit(message["limits"])
    for name, blob in zip(message["files"], blobs, strict=True):
        with open(name, "wb") as file:
            file.write(blob)
    sys.modules["otter"] = stub_otter()
    worker = Worker(channel)
    random.seed(0)
    with contextlib.suppress(ImportError):
        import numpy

        numpy.random.seed(0)  # noqa: NPY002 - what students' code may draw from
    codec.send(channel, {"value": None, "nonce": message["nonce"]}, [])
    worker.serve()
    os._exit(0)


if __name__ == "__main__":
    main()
