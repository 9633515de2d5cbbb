"""The judge's line to a worker: run cells there, fetch and call what they define."""

from __future__ import annotations

import builtins
import secrets
import sys
import time
from typing import Any

from tools.grading import codec
from tools.grading.collect import plain
from tools.grading.exercise import Exercise
from tools.grading.sandbox import Limits, Sandbox

START = 60  # seconds of processor time for a worker to start
SLACK = 4  # times so long by the clock


class Lost(BaseException):
    """The worker is gone or out of time. No test can catch this with ``except Exception``."""


class Session:
    """One worker: run cells in it, fetch and call what they define."""

    def __init__(self, exercise: Exercise, limits: Limits, sandbox: Sandbox, end: float) -> None:
        self.sandbox, self.limits, self.end = sandbox, limits, end
        self.deadline = end
        self.seed: bytes | None = None
        message = {"limits": sandbox.rlimits(), "files": list(exercise.files)}
        self.allow(START)
        self.ask(message, list(exercise.files.values()))

    def allow(self, seconds: float) -> None:
        """What follows may take ``seconds`` of processor time, on a busy machine more by the clock.

        Whatever comes first ends it with the same words, so that a second run tells the same.
        """
        self.seconds = seconds
        self.deadline = min(time.monotonic() + SLACK * seconds, self.end)
        self.sandbox.allow(seconds)

    def ask(self, message: dict[str, Any], blobs: list[bytes]) -> Any:
        """Send a request; return the answer's value, or raise what the student's code raised."""
        nonce = secrets.token_hex(8)  # an answer written before its question is none
        try:
            self.sandbox.channel.settimeout(max(0.01, self.deadline - time.monotonic()))
            codec.send(self.sandbox.channel, {**message, "nonce": nonce}, blobs)
            reply, answer_blobs = codec.receive(self.sandbox.channel, self.deadline)
            if reply["nonce"] != nonce:
                raise codec.ProtocolError("an answer to another question")
            if "raised" not in reply:
                return codec.Decoder(answer_blobs, self.remote).decode(reply["value"])
            base, name, text = map(str, reply["raised"])
        except TimeoutError:
            late = time.monotonic() >= self.end
            words = f"the submission took more than {self.limits.total_seconds} s in all"
            self.lose(words if late else f"took longer than {self.seconds:g} s")
        except codec.TooLarge:  # ours: nothing was sent
            raise
        except (EOFError, OSError):
            self.lose("ended its own process")
        except (codec.ProtocolError, KeyError, ValueError, TypeError, AttributeError):
            self.lose("wrote into the grader's channel")
        raise rebuilt(base, name, text)

    def lose(self, reason: str) -> None:
        self.sandbox.kill(reason)
        raise Lost(self.sandbox.reason) from None

    def remote(self, coded: dict[str, Any]) -> codec.Remote:
        number = coded["remote"]
        if type(number) is not int:
            raise codec.ProtocolError("not a number")
        return codec.Remote(number, plain(str(coded.get("type")), 60), self.call)

    def run(self, source: str) -> str:
        """Run a cell; return the error it raised, in words, or ''."""
        self.allow(self.limits.seconds)
        try:
            self.ask({"do": "run", "source": source}, [])
        except MemoryError:  # what it hoards stays, and would starve the cells behind it
            self.lose(self.limits.too_much)
        except Exception as problem:
            return getattr(problem, "student_type", type(problem).__name__)
        return ""

    def get(self, name: str, default: Any = None) -> Any:
        """Return the value of a name (None if there is none): otter's tests ask like this."""
        return self.ask({"do": "get", "name": name}, [])

    def call(self, remote: codec.Remote, args: Any, kwargs: Any) -> Any:
        encoder = codec.Encoder()
        message = {
            "do": "call",
            "remote": remote._number,
            "args": encoder.encode(args),
            "kwargs": encoder.encode(kwargs),
            "seed": self.new_seed(encoder),
        }
        return self.ask(message, encoder.blobs)

    def new_seed(self, encoder: codec.Encoder) -> Any:
        """A test that seeds torch means the student's draws too, as if they shared a process."""
        if "torch" not in sys.modules:
            return None
        state = sys.modules["torch"].get_rng_state()
        seed = state.numpy().tobytes()
        if seed == self.seed:
            return None
        self.seed = seed
        return encoder.encode(state)


def rebuilt(base: str, name: str, text: str) -> Exception:
    """Return the exception that student code raised, as the builtin one nearest to it."""
    kind = getattr(builtins, base, None)
    if not (isinstance(kind, type) and issubclass(kind, Exception)):
        kind = RuntimeError  # SystemExit and the like must not end the judge
    if issubclass(kind, (StopIteration, StopAsyncIteration)):
        kind = RuntimeError  # or a check that goes through map(f, inputs) would end early, and pass
    try:
        problem = kind(text)
    except TypeError:  # UnicodeDecodeError wants five arguments
        problem = ValueError(text) if issubclass(kind, ValueError) else RuntimeError(text)
    problem.student_type = plain(name, 60)  # type: ignore[attr-defined]
    return problem
