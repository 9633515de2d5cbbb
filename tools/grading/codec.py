"""What passes between the judge and a student's process: plain data, and nothing that can act.

A message is a JSON object and a list of byte strings (tensors, arrays, bytes). Reading one builds
numbers, strings, containers and tensors; it never imports, calls or unpickles anything, so that a
worker which lies can do no more than give a wrong answer. The worker uses the same file.
"""

from __future__ import annotations

import json
import math
import socket
import struct
import sys
import time
from typing import Any

MAX_JSON = 16 << 20  # bytes of a message's JSON part
MAX_BLOBS = 256 << 20  # bytes of all its tensors together
MAX_DEPTH = 100  # containers in containers
HEADER = struct.Struct(">IQ")

TORCH_TYPES = (
    "float16 bfloat16 float32 float64 complex64 complex128 uint8 int8 int16 int32 int64 bool"
).split()
NUMPY_KINDS = "biufc"


class ProtocolError(Exception):
    """The other side sent something that is not a message."""


class TooLarge(ValueError):
    """A message that would be too long to send; nothing of it was sent."""


class Remote:
    """A value that stays in the worker: opaque, but a test may call it or pass it back.

    It takes part in no comparison and has no truth value: a student's ``__eq__`` that says yes to
    everything would otherwise decide its own test.
    """

    __slots__ = ("_call", "_number", "_type")

    def __init__(self, number: int, type_name: str, call: Any) -> None:
        self._number = number
        self._type = type_name
        self._call = call

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._call(self, args, kwargs)

    def __repr__(self) -> str:
        return f"<a {self._type} of the submission>"

    def _refuse(self, *_: Any) -> Any:
        raise TypeError(f"expected data (numbers, text, tensors, lists), got a {self._type}")

    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = _refuse  # type: ignore[assignment]
    __bool__ = __len__ = __iter__ = __contains__ = __getitem__ = _refuse
    __hash__ = None  # type: ignore[assignment]


class Encoder:
    """Turn a value into JSON and blobs. ``keep`` is asked for a number for what is not data."""

    def __init__(self, keep: Any = None) -> None:
        self.blobs: list[bytes] = []
        self.size = 0
        self.keep = keep

    def blob(self, data: bytes) -> int:
        self.size += len(data)
        if self.size > MAX_BLOBS:
            raise ValueError(f"the value is larger than {MAX_BLOBS >> 20} MB")
        self.blobs.append(data)
        return len(self.blobs) - 1

    def encode(self, value: Any, depth: int = 0) -> Any:
        if depth > MAX_DEPTH:
            raise ValueError(f"the value is nested more than {MAX_DEPTH} deep")
        if value is None or value is True or value is False:
            return value
        if value is Ellipsis:
            return {"ellipsis": 0}
        if type(value) is Remote:
            return {"remote": value._number}
        for encode in (self.library, self.scalar, self.container):
            coded = encode(value, depth)
            if coded is not None:
                return coded
        if self.keep is None:
            raise TypeError(
                f"a test can hand numbers, text, tensors and lists of these to a submission, "
                f"not a {type(value).__name__}"
            )
        return self.keep(value)

    def scalar(self, value: Any, depth: int) -> Any:
        if isinstance(value, int):
            number = int(value)
            if number.bit_length() > 14_000:  # what Python reads back: 4,300 digits
                raise ValueError("an integer of more than 4,000 digits")
            return number
        if isinstance(value, float):
            return float(value)
        if isinstance(value, str):
            return str(value)
        if isinstance(value, complex):
            return {"complex": [value.real, value.imag]}
        if isinstance(value, (bytes, bytearray)):
            return {"bytes": self.blob(bytes(value))}
        return None

    def container(self, value: Any, depth: int) -> Any:
        for kind in (list, tuple, set, frozenset):
            if isinstance(value, kind):
                return {kind.__name__: [self.encode(item, depth + 1) for item in value]}
        if isinstance(value, dict):
            pairs = [
                [self.encode(k, depth + 1), self.encode(v, depth + 1)] for k, v in value.items()
            ]
            return {"dict": pairs}
        return None

    def library(self, value: Any, depth: int) -> Any:
        """Tensors and arrays; a library that was never imported can't have made the value."""
        torch, numpy = sys.modules.get("torch"), sys.modules.get("numpy")
        if torch is not None:
            if type(value) in (torch.Tensor, torch.nn.Parameter):
                return self.tensor(torch, value)
            if isinstance(value, torch.dtype):
                return {"torch.dtype": str(value).removeprefix("torch.")}
            if isinstance(value, torch.Size):
                return {"torch.Size": [int(size) for size in value]}
        if (
            numpy is not None
            and isinstance(value, (numpy.ndarray, numpy.generic))
            and value.dtype.kind in NUMPY_KINDS
        ):
            array = numpy.asarray(value)
            kind = "numpy.scalar" if isinstance(value, numpy.generic) else "numpy.ndarray"
            return {kind: [array.dtype.str, list(array.shape), self.blob(array.tobytes())]}
        return None

    def tensor(self, torch: Any, value: Any) -> Any:
        name = str(value.dtype).removeprefix("torch.")
        if name not in TORCH_TYPES or value.layout is not torch.strided:
            raise ValueError(f"a tensor of type {value.dtype}, {value.layout}")
        if value.numel() * value.element_size() > MAX_BLOBS:
            raise ValueError(f"a tensor larger than {MAX_BLOBS >> 20} MB")
        flat = value.detach().cpu().contiguous().reshape(-1)
        data = flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
        return {"torch.Tensor": [name, list(value.shape), self.blob(data)]}


class Decoder:
    """Build the value again. ``remote`` makes what stands for a value that stayed behind."""

    def __init__(self, blobs: list[bytes], remote: Any) -> None:
        self.blobs = blobs
        self.remote = remote

    def decode(self, coded: Any, depth: int = 0) -> Any:
        if depth > MAX_DEPTH:
            raise ProtocolError("nested too deeply")
        if coded is None or isinstance(coded, (bool, int, float, str)):
            return coded
        if not isinstance(coded, dict) or not coded:
            raise ProtocolError("not a value")
        kind, content = next(iter(coded.items()))
        try:
            if kind in ("list", "tuple", "set", "frozenset"):
                items = [self.decode(item, depth + 1) for item in content]
                return {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}[kind](
                    items
                )
            if kind == "dict":
                return {self.decode(k, depth + 1): self.decode(v, depth + 1) for k, v in content}
            return self.leaf(kind, content, coded)
        except ProtocolError:
            raise
        except Exception as problem:  # a worker may send anything
            raise ProtocolError(f"not a {kind}: {problem}") from problem

    def leaf(self, kind: str, content: Any, coded: dict[str, Any]) -> Any:
        if kind == "ellipsis":
            return ...
        if kind == "complex":
            return complex(float(content[0]), float(content[1]))
        if kind == "bytes":
            return self.blobs[content]
        if kind == "remote":
            return self.remote(coded)
        if kind.startswith("torch."):
            return self.torch(kind, content)
        if kind.startswith("numpy."):
            return self.numpy(kind, content)
        raise ProtocolError(f"unknown kind {kind!r}")

    def torch(self, kind: str, content: Any) -> Any:
        import torch

        if kind == "torch.Size":
            return torch.Size([int(size) for size in content])
        name = content if kind == "torch.dtype" else content[0]
        if name not in TORCH_TYPES:
            raise ProtocolError(f"unknown type {name!r}")
        dtype = getattr(torch, name)
        if kind == "torch.dtype":
            return dtype
        if kind != "torch.Tensor":
            raise ProtocolError(f"unknown kind {kind!r}")
        shape, data = checked(content[1], dtype.itemsize, self.blobs[content[2]])
        if not data:
            return torch.empty(shape, dtype=dtype)
        if dtype is torch.bool:  # any other byte than 0 and 1 would be no truth value
            return (torch.frombuffer(data, dtype=torch.uint8) != 0).reshape(shape)
        return torch.frombuffer(data, dtype=dtype).reshape(shape)

    def numpy(self, kind: str, content: Any) -> Any:
        import numpy

        dtype = numpy.dtype(str(content[0]))
        if dtype.kind not in NUMPY_KINDS:
            raise ProtocolError(f"unknown type {dtype}")
        shape, data = checked(content[1], dtype.itemsize, self.blobs[content[2]])
        if dtype.kind == "b":
            array = (numpy.frombuffer(data, dtype=numpy.uint8) != 0).reshape(shape)
        else:
            array = numpy.frombuffer(data, dtype=dtype).reshape(shape)
        return array[()] if kind == "numpy.scalar" else array


def checked(shape: Any, item_size: int, data: bytes) -> tuple[list[int], bytearray]:
    """Return shape and data (writable) if one fits the other; ``ProtocolError`` otherwise."""
    sizes = [int(size) for size in shape]
    if len(sizes) > 32 or any(size < 0 for size in sizes):
        raise ProtocolError(f"not a shape: {sizes}")
    if math.prod(sizes) * item_size != len(data):
        raise ProtocolError(f"shape {sizes} does not fit {len(data)} bytes")
    return sizes, bytearray(data)


def send(channel: socket.socket, message: dict[str, Any], blobs: list[bytes]) -> None:
    """Send one message."""
    text = json.dumps({**message, "blobs": [len(blob) for blob in blobs]}).encode()
    if len(text) > MAX_JSON:
        raise TooLarge(f"the value is longer than {MAX_JSON >> 20} MB of text")
    channel.sendall(HEADER.pack(len(text), sum(map(len, blobs))) + text)
    for blob in blobs:
        channel.sendall(blob)


def receive(
    channel: socket.socket, deadline: float | None = None
) -> tuple[dict[str, Any], list[bytes]]:
    """Receive one message.

    Raises ``EOFError`` when the other side is gone, ``TimeoutError`` after ``deadline`` (of the
    monotonic clock), ``ProtocolError`` when what comes is no message.
    """
    text_size, blob_size = HEADER.unpack(read(channel, HEADER.size, deadline))
    if text_size > MAX_JSON or blob_size > MAX_BLOBS:
        raise ProtocolError(f"a message of {text_size + blob_size} bytes")
    try:
        message = json.loads(read(channel, text_size, deadline))
        sizes = message.pop("blobs")
        if any(type(size) is not int or size < 0 for size in sizes) or sum(sizes) != blob_size:
            raise ProtocolError("sizes that don't add up")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as problem:
        raise ProtocolError(f"not JSON of a message: {problem}") from problem
    return message, [read(channel, size, deadline) for size in sizes]


def read(channel: socket.socket, count: int, deadline: float | None) -> bytes:
    """Read exactly ``count`` bytes."""
    data = bytearray()
    while len(data) < count:
        if deadline is not None:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            channel.settimeout(left)
        part = channel.recv(min(count - len(data), 1 << 20))
        if not part:
            raise EOFError
        data += part
    return bytes(data)
