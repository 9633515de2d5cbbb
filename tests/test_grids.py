import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from effedu.grids import (
    BITS,
    Grid,
    check_bits,
    check_weight,
    from_grid,
    group_length,
    make_grid,
    pack,
    round_to_grid,
    unpack,
)

widths = st.sampled_from(BITS)


@given(bits=widths, count=st.integers(1, 70), seed=st.integers(0, 100))
def test_codes_come_back_and_take_no_more_than_their_bits(bits, count, seed):
    torch.manual_seed(seed)
    codes = torch.randint(2**bits, (count,), dtype=torch.uint8)
    packed = pack(codes, bits)
    assert torch.equal(unpack(packed, bits, count), codes)
    if count % 8 == 0:
        assert 8 * packed.nbytes == bits * count
    assert packed.nbytes <= bits * (count + 7) // 8 + bits


@pytest.mark.parametrize("bits", BITS)
def test_packed_codes_are_one_little_endian_number(bits):
    """Against Python's integers: the codes one behind the other, the first in the lowest bits."""
    codes = torch.randint(2**bits, (24,), dtype=torch.uint8)
    number = sum(code << bits * i for i, code in enumerate(codes.tolist()))
    assert bytes(pack(codes, bits).tolist()) == number.to_bytes(24 * bits // 8, "little")


@given(
    bits=widths,
    symmetric=st.booleans(),
    scale_dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    spread=st.sampled_from([0.0, 1e-30, 1e-3, 1.0, 1e30]),
    middle=st.sampled_from([0.0, 1.0, -3.0]),
    size=st.integers(1, 40),
    seed=st.integers(0, 100),
)
def test_no_number_is_further_than_half_a_step(
    bits, symmetric, scale_dtype, spread, middle, size, seed
):
    torch.manual_seed(seed)
    groups = (torch.randn(5, size) + middle) * spread
    grid = make_grid(groups, bits=bits, symmetric=symmetric, scale_dtype=scale_dtype)
    again = from_grid(round_to_grid(groups, grid, bits=bits), grid, bits=bits)
    error = (again.double() - groups.double()).abs()
    rounding = 4 * torch.finfo(torch.float32).eps * groups.abs().amax(1, keepdim=True)
    assert (error <= grid.scale.double()[:, None] / 2 * (1 + 1e-6) + rounding).all()
    assert grid.scale.dtype == scale_dtype


@given(bits=widths, seed=st.integers(0, 100))
def test_no_other_code_is_nearer(bits, seed):
    torch.manual_seed(seed)
    groups = torch.randn(3, 20)
    grid = make_grid(groups, bits=bits, symmetric=False)
    error = (from_grid(round_to_grid(groups, grid, bits=bits), grid, bits=bits) - groups).abs()
    for code in range(2**bits):
        other = from_grid(torch.full((3, 20), code, dtype=torch.uint8), grid, bits=bits)
        assert (error <= (other - groups).abs() + 1e-6).all()


def test_the_ends_of_a_grid_with_offset_are_the_ends_of_the_group():
    groups = torch.tensor([[5.0, 6.0, 5.5], [-2.0, -2.0, -2.0]])
    for bits in BITS:
        grid = make_grid(groups, bits=bits, symmetric=False)
        again = from_grid(round_to_grid(groups, grid, bits=bits), grid, bits=bits)
        assert_close(again[:, :2], groups[:, :2])


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", BITS)
def test_zeros_stay_zero(bits, symmetric):
    groups = torch.zeros(2, 8)
    grid = make_grid(groups, bits=bits, symmetric=symmetric)
    again = from_grid(round_to_grid(groups, grid, bits=bits), grid, bits=bits)
    assert torch.equal(again, groups)


def test_a_symmetric_grid_has_zero_in_the_middle():
    groups = torch.tensor([[-1.0, 0.0, 1e-9, 1.0]])
    for bits in BITS:
        grid = make_grid(groups, bits=bits)
        codes = round_to_grid(groups, grid, bits=bits)
        assert codes[0, 1] == codes[0, 2] == 2 ** (bits - 1)
        assert from_grid(codes, grid, bits=bits)[0, 1] == 0


def test_numbers_outside_go_to_the_ends():
    grid = Grid(torch.tensor([1.0]), torch.tensor([0.0]))
    codes = round_to_grid(torch.tensor([[-9.0, 1.4, 99.0]]), grid, bits=2)
    assert codes.tolist() == [[0, 1, 3]]


@pytest.mark.unchecked_shapes
@pytest.mark.parametrize("bits", [1, 5, 0, 2.5, "4", None, True])
def test_bad_bits(bits):
    message = rf"bits must be one of 2, 3, 4, 8; got {bits!r}"
    codes = torch.zeros(8, dtype=torch.uint8)
    for call in (
        lambda: check_bits(bits),
        lambda: make_grid(torch.ones(1, 8), bits=bits),
        lambda: pack(codes, bits),
        lambda: unpack(codes, bits, 8),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_bad_scale_dtype():
    with pytest.raises(ValueError, match=r"scale_dtype must be torch.float32 or torch.bfloat16, "):
        make_grid(torch.ones(1, 8), bits=4, scale_dtype=torch.float16)


@pytest.mark.unchecked_shapes
@pytest.mark.parametrize(
    ("weight", "message"),
    [
        ([1.0], "weight must be a torch.Tensor, got list"),
        (torch.ones(2, dtype=torch.int8), "weight must have a floating-point dtype, got torch.int"),
        (torch.ones(2, 0), r"weight must have an axis and not be empty, got shape \(2, 0\)"),
        (torch.tensor(1.0), r"weight must have an axis and not be empty, got shape \(\)"),
        (torch.tensor([1.0, float("nan")]), "weight must be finite in float32, got 1 NaN or inf"),
        (torch.tensor([[1.0, float("-inf")]]), "weight must be finite in float32, got 1 NaN or"),
        (torch.tensor([1e300], dtype=torch.float64), "weight must be finite in float32, got 1 "),
    ],
)
def test_bad_weight(weight, message):
    with pytest.raises(ValueError, match=message):
        check_weight(weight)


@pytest.mark.unchecked_shapes
def test_bad_groups():
    weight = torch.ones(4, 12)
    assert group_length(weight, None) == 12
    assert group_length(weight, 3) == 3
    assert group_length(weight, None, per_tensor=True) == 48
    with pytest.raises(ValueError, match="group_size must divide the last axis, 12, got 8; pass 4"):
        group_length(weight, 8)
    with pytest.raises(ValueError, match="group_size must be None with per_tensor, got 4"):
        group_length(weight, 4, per_tensor=True)
    for size in (0, -4, 2.0, True):
        with pytest.raises(ValueError, match="group_size must be an integer of at least 1, got"):
            group_length(weight, size)
