"""Linear layers that compute with quantized weights: 8 bits in whole numbers, 4 bits unpacked.

Fast where PyTorch has a kernel for it, chosen by measurement (``tools/bench_linear.py``), and right
everywhere else. Both keep their codes once, and their ``state_dict`` holds plain tensors.
"""

from __future__ import annotations

import math
import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int8, UInt8
from torch import Tensor, nn

from effedu._checks import check_int
from effedu.quantization import QuantizedTensor, quantize

_STEPS = 63  # of a token's inputs, on each side of zero: 7 bits
_TINY = torch.finfo(torch.float32).tiny
_multiply_by_fbgemm: Any = getattr(
    torch.ops.quantized, "linear_with_input_q_dq_qweight_dq_output_fp32", None
)
_HAS_FBGEMM = (
    _multiply_by_fbgemm is not None
    and "fbgemm" in torch.backends.quantized.supported_engines
    and hasattr(torch, "_make_per_channel_quantized_tensor")
)
# Outputs in a block of PyTorch's 4-bit kernel. Other processors have the op, but as a plain loop.
_BLOCK = {"AVX2": 32, "AVX512": 64}.get(torch.backends.cpu.get_cpu_capability(), 0)
if not hasattr(torch.ops.aten, "_weight_int4pack_mm_for_cpu"):
    _BLOCK = 0
_FEW_TOKENS = 64  # from about here on, turning the weights into numbers first is faster


class _PackedLinear(nn.Module):
    """What the layers below share: codes that are plain in ``weight`` until a kernel packs them.

    A kernel's form then stands in ``_packed`` *in place of* the plain codes, so that memory holds
    them once. What copies, moves, saves or loads the layer sees plain tensors again.
    """

    in_features: int
    out_features: int
    weight: Tensor | None
    scale: Tensor
    bias: Tensor | None
    _packed: Any

    @abstractmethod
    def codes(self) -> Tensor:
        """The weights' codes as a plain tensor, whatever form the layer holds them in."""

    def _unpack(self) -> None:
        self.weight, self._packed = self.codes(), None

    def __getstate__(self) -> dict[str, Any]:
        self._unpack()
        return self.__dict__.copy()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> _PackedLinear:
        self._unpack()
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "weight"] = self.codes()

    def _load_from_state_dict(self, *args: Any) -> None:
        self._unpack()
        super()._load_from_state_dict(*args)

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}"
        )


class Int8Linear(_PackedLinear):
    r"""A linear layer with 8-bit weights, which multiplies them with its inputs as integers.

    Each output has a scale :math:`s` for its row of codes :math:`Q`. Each token's inputs are
    rounded when they come, to the nearest of 127 steps between plus and minus their largest,
    :math:`m`: :math:`y = s\,\frac{m}{63}\,\bigl(Q \operatorname{round}(63\,x / m)\bigr) + c` with
    the bias :math:`c`. So a token's outputs depend on no other token, whatever it is batched with.

    Seven bits for the inputs, not eight: processors without VNNI add two products in 16 bits,
    which two products of full size overflow. PyTorch's dynamic layers reduce the range too.

    ``state_dict`` holds plain tensors: ``weight`` (int8), ``scale`` and ``bias`` (float32). On a
    processor with FBGEMM the first call brings ``weight`` into that library's order *in place of*
    the plain codes, so that memory holds them once; saving or moving the layer brings them back.
    Elsewhere the same sums are done in float32, which saves memory and not time. No gradient.

    Args:
        in_features, out_features, bias, device: as for ``nn.Linear``; all codes are zero.
    """

    weight: Int8[Tensor, "outputs inputs"] | None
    scale: Float[Tensor, "outputs"]
    bias: Float[Tensor, "outputs"] | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        shape = (out_features, in_features)
        self.register_buffer("weight", torch.zeros(shape, dtype=torch.int8, device=device))
        self.register_buffer("scale", torch.ones(out_features, device=device))
        self.register_buffer("bias", torch.zeros(out_features, device=device) if bias else None)
        self._packed: Any = None  # FBGEMM's form of weight, scale included

    @classmethod
    def from_linear(cls, linear: nn.Linear) -> Int8Linear:
        """Round the weights of ``linear`` to nearest, each row with a scale of its own.

        Raises:
            ValueError: not an ``nn.Linear``, or weights that :func:`quantize` can't round.

        >>> linear = nn.Linear(64, 32)
        >>> layer = Int8Linear.from_linear(linear)
        >>> x = torch.randn(5, 64)
        >>> bool((layer(x) - linear(x)).norm() < 0.03 * linear(x).norm()), layer.nbytes
        (True, 2304)
        """
        _check_linear(linear)
        quantized = quantize(linear.weight, bits=8)
        layer = cls(
            linear.in_features,
            linear.out_features,
            linear.bias is not None,
            device=linear.weight.device,
        )
        layer.weight, layer.scale = quantized.codes(), quantized.grid.scale
        if linear.bias is not None:
            layer.bias = linear.bias.detach().float().clone()
        return layer.train(linear.training)

    @property
    def nbytes(self) -> int:
        """Bytes that the layer holds, in either form."""
        rest = [self.scale, self.bias]
        codes = self.in_features * self.out_features
        return codes + sum(tensor.nbytes for tensor in rest if tensor is not None)

    def codes(self) -> Int8[Tensor, "outputs inputs"]:
        if self.weight is not None:
            return self.weight
        with _quantized_tensors():
            codes: Tensor = torch.ops.quantized.linear_unpack(self._packed)[0].int_repr()
        return codes

    def forward(self, inputs: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch outputs"]:
        """``inputs`` times the weights, plus the bias, in the dtype of ``inputs``."""
        x = _check_inputs(inputs, self.in_features).float()
        if x.device.type != "cpu" or not _HAS_FBGEMM or not x.numel() or x.ndim == 1:
            outputs = self._multiply_floats(x)
        else:
            if self._packed is None:
                self._pack()
            one_token = x.numel() == self.in_features
            outputs = self._multiply_token(x) if one_token else self._multiply_tokens(x)
        return outputs.to(inputs.dtype)

    def _multiply_tokens(self, x: Tensor) -> Tensor:
        """The kernel has one grid for all its inputs, so each token is stretched to fill it."""
        share = x.abs()
        largest = share.amax(-1, keepdim=True).clamp_(min=_TINY)  # (*batch, 1)
        torch.div(x, largest, out=share)  # (*batch, inputs), from -1 to 1
        outputs: Tensor = _multiply_by_fbgemm(share, 1 / _STEPS, _STEPS + 1, self._packed)
        if self.bias is None:
            return outputs.mul_(largest)
        # The kernel has added the bias already: only what lies beyond it is to be shrunk back.
        return torch.lerp(self.bias.float(), outputs, largest, out=outputs)

    def _multiply_token(self, x: Tensor) -> Tensor:
        largest = max(torch.linalg.vector_norm(x, math.inf).item(), _TINY)
        outputs: Tensor = _multiply_by_fbgemm(x, largest / _STEPS, _STEPS + 1, self._packed)
        return outputs

    def _multiply_floats(self, x: Tensor) -> Tensor:
        """The same sums of whole numbers, in float32."""
        step = x.abs().amax(-1, keepdim=True).clamp(min=_TINY) / _STEPS
        outputs = F.linear((x / step).round(), self.codes().float())
        outputs = outputs * step * self.scale
        return outputs if self.bias is None else outputs + self.bias

    def _pack(self) -> None:
        zeros = torch.zeros(self.out_features, dtype=torch.long)
        bias = None if self.bias is None else self.bias.float()
        engine = torch.backends.quantized.engine
        torch.backends.quantized.engine = "fbgemm"  # which library packs, and later multiplies
        try:
            with _quantized_tensors():
                weight = torch._make_per_channel_quantized_tensor(
                    self.codes(), self.scale.double(), zeros, axis=0
                )
                self._packed = torch.ops.quantized.linear_prepack(weight, bias)
        finally:
            torch.backends.quantized.engine = engine
        self.weight = None


class Int4Linear(_PackedLinear):
    """A linear layer whose weights have 4 bits; inputs and products stay floating-point.

    Groups of ``group_size`` weights share a scale. With few tokens at once, as when a model writes,
    PyTorch's kernel reads the codes as they are, with inputs and products in bfloat16: reading
    less is what makes it faster. With many, the weights are turned into numbers first, and the
    layer is a little slower than a plain one.

    ``state_dict`` holds plain tensors: ``weight`` (uint8, two codes a byte, the first in the low
    half), ``scale`` (bfloat16) and ``bias`` (float32). The first call with few tokens brings
    ``weight`` into the kernel's order *in place of* the plain codes, on x86 processors with AVX2 or
    AVX-512; saving or moving the layer brings them back. No gradient.

    Args:
        in_features, out_features, bias, device: as for ``nn.Linear``; all codes are zero.
        group_size: weights of a row that share a scale: even, and a divisor of ``in_features``.

    Raises:
        ValueError: ``group_size`` that does not fit.
    """

    weight: UInt8[Tensor, "outputs half_inputs"] | None
    scale: Float[Tensor, "outputs groups"]
    bias: Float[Tensor, "outputs"] | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        group_size: int = 64,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        check_int("group_size", group_size, minimum=2)
        if group_size % 2 or in_features % group_size:
            raise ValueError(
                f"group_size must be even and divide in_features, {in_features}, got {group_size}"
            )
        self.in_features, self.out_features, self.group_size = in_features, out_features, group_size
        codes = torch.zeros(out_features, in_features // 2, dtype=torch.uint8, device=device)
        groups = (out_features, in_features // group_size)
        self.register_buffer("weight", codes)
        self.register_buffer("scale", torch.ones(groups, dtype=torch.bfloat16, device=device))
        self.register_buffer("bias", torch.zeros(out_features, device=device) if bias else None)
        self._packed: Any = None  # the kernel's codes, and its scales

    @classmethod
    def from_linear(cls, linear: nn.Linear, *, group_size: int = 64) -> Int4Linear:
        """Round the weights of ``linear`` to nearest.

        Raises:
            ValueError: not an ``nn.Linear``, weights that :func:`quantize` can't round, or
                ``group_size`` that does not fit.

        >>> linear = nn.Linear(64, 32)
        >>> layer = Int4Linear.from_linear(linear, group_size=32)
        >>> x = torch.randn(5, 64)
        >>> bool((layer(x) - linear(x)).norm() < 0.15 * linear(x).norm()), layer.codes().nbytes
        (True, 1024)
        """
        _check_linear(linear)
        quantized = quantize(
            linear.weight, bits=4, group_size=group_size, scale_dtype=torch.bfloat16
        )
        return cls.from_quantized(quantized, linear.bias).train(linear.training)

    @classmethod
    def from_quantized(cls, quantized: QuantizedTensor, bias: Tensor | None = None) -> Int4Linear:
        """Use weights that are quantized already, such as those of :func:`effedu.calibration.gptq`.

        Raises:
            ValueError: other than 4 bits, two axes, a symmetric grid with bfloat16 scales and an
                even group size.
        """
        if (quantized.bits, len(quantized.shape), quantized.symmetric) != (4, 2, True) or (
            quantized.grid.scale.dtype != torch.bfloat16 or quantized.shape[1] % 2
        ):
            raise ValueError(
                "quantized must be a matrix of 4 bits, symmetric, with scale_dtype=torch.bfloat16 "
                f"and an even number of columns, got {quantized!r}"
            )
        rows, columns = quantized.shape
        layer = cls(
            columns,
            rows,
            bias is not None,
            group_size=min(quantized.group_size, columns),
            device=quantized.packed.device,
        )
        layer.weight = quantized.packed[: rows * columns // 2].view(rows, -1)
        scale = quantized.grid.scale  # one for all if it was rounded per tensor
        layer.scale = scale.view(rows, -1) if len(scale) > 1 else scale.expand(rows, 1).clone()
        if bias is not None:
            layer.bias = bias.detach().float().clone()
        return layer

    @property
    def nbytes(self) -> int:
        """Bytes that the layer holds at the moment, the kernel's scales included."""
        tensors = [self.weight, self.scale, self.bias, *(self._packed or ())]
        return sum(tensor.nbytes for tensor in tensors if tensor is not None)

    def codes(self) -> UInt8[Tensor, "outputs half_inputs"]:
        if self.weight is not None:
            return self.weight
        codes = _from_blocks(self._packed[0])
        return codes[:, ::2] | codes[:, 1::2] << 4

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Float[Tensor, "outputs inputs"]:
        """The weights that the codes stand for."""
        numbers: Tensor
        if self.weight is not None:
            numbers = self.weight.new_empty(*self.weight.shape, 2, dtype=dtype)
            numbers[..., 0] = self.weight & 15
            numbers[..., 1] = self.weight >> 4  # (outputs, inputs / 2, 2)
            groups = numbers.view(self.out_features, -1, self.group_size)
            groups.sub_(8).mul_(self.scale[..., None])
            return numbers.view(self.out_features, self.in_features)
        blocks, grid = self._packed
        count, _, half = blocks.shape
        numbers = blocks.new_empty(self.in_features, count, 2, half, dtype=dtype)
        numbers[:, :, 0] = (blocks & 15).transpose(0, 1)
        numbers[:, :, 1] = (blocks >> 4).transpose(0, 1)  # (inputs, blocks, 2, outputs of each)
        groups = numbers.view(-1, self.group_size, self.out_features)
        groups.sub_(8).mul_(grid[:, None, :, 0])
        return numbers.view(self.in_features, self.out_features).t()

    def forward(self, inputs: Float[Tensor, "*batch inputs"]) -> Float[Tensor, "*batch outputs"]:
        """``inputs`` times the weights, plus the bias, in the dtype of ``inputs``."""
        rows = _check_inputs(inputs, self.in_features).reshape(-1, self.in_features)
        if 0 < len(rows) <= _FEW_TOKENS and rows.device.type == "cpu" and self._pack():
            blocks, grid = self._packed
            outputs: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(
                rows.bfloat16(), blocks.view(self.out_features, -1), self.group_size, grid
            ).to(rows.dtype)
        else:
            outputs = F.linear(rows, self.dequantize(rows.dtype))
        if self.bias is not None:
            outputs += self.bias
        return outputs.view(*inputs.shape[:-1], self.out_features)

    def _pack(self) -> bool:
        """Bring the codes into the kernel's order, if it takes them; whether they are in it."""
        if self.weight is None:
            return True
        if not _BLOCK or self.group_size not in (32, 64, 128, 256) or self.out_features % _BLOCK:
            return False
        codes = torch.stack([self.weight & 15, self.weight >> 4], dim=-1).flatten(1)
        blocks = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes.int(), 1)
        blocks = blocks.view(-1, self.in_features, _BLOCK // 2)
        if not torch.equal(_from_blocks(blocks), codes):  # another order than that of torch 2.13
            return False
        scale = self.scale.bfloat16().t()
        grid = torch.stack([scale, torch.zeros_like(scale)], dim=-1)
        self._packed = blocks, grid.contiguous()  # (groups, outputs, scale and offset)
        self.weight = None
        return True

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, group_size={self.group_size}"


def _from_blocks(blocks: UInt8[Tensor, "blocks inputs half"]) -> UInt8[Tensor, "outputs inputs"]:
    """The codes in the order of rows and columns.

    A block holds as many outputs as two bytes a lane: the first half of them in the low halves of
    its bytes, the others in the high halves.
    """
    halves = torch.stack([blocks & 15, blocks >> 4], dim=1)  # (blocks, 2, inputs, half)
    return halves.transpose(2, 3).reshape(-1, blocks.shape[1])


@contextmanager
def _quantized_tensors() -> Iterator[None]:
    """PyTorch warns that tensors of its quantized dtypes will go; FBGEMM takes nothing else.

    https://github.com/pytorch/pytorch/issues/184982
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*deprecated", category=UserWarning)
        yield


def _check_linear(linear: object) -> None:
    if not isinstance(linear, nn.Linear):
        raise ValueError(f"linear must be a torch.nn.Linear, got {type(linear).__name__}")


def _check_inputs(inputs: Tensor, in_features: int) -> Tensor:
    """The inputs, without their history, if they fit."""
    if inputs.ndim == 0 or inputs.shape[-1] != in_features:
        raise ValueError(
            f"inputs must have {in_features} numbers along the last axis, "
            f"got shape {tuple(inputs.shape)}"
        )
    return inputs.detach() if inputs.requires_grad else inputs
