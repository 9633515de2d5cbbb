"""Quantizer's numbers against effedu.quantization on the row it was made from, and its errors."""

from __future__ import annotations

import math
from xml.etree import ElementTree

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

import effedu
from effedu.quantization import quantize
from effedu.widgets import Quantizer
from effedu.widgets.quantizer import _checked


@given(
    bits=st.sampled_from([2, 3, 4, 8]),
    group_size=st.sampled_from([None, 1, 8, 24, 48, 96]),
    symmetric=st.booleans(),
    scale_dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    index=st.integers(0, 95),
    factor=st.sampled_from([1.0, 1.7, 20.0, 100.0]),
    seed=st.integers(0, 99),
)
def test_numbers_are_those_of_quantize(
    bits, group_size, symmetric, scale_dtype, index, factor, seed
):
    row = torch.randn(96, generator=torch.Generator().manual_seed(seed))
    choices = {"bits": bits, "group_size": group_size, "symmetric": symmetric}
    quantizer = Quantizer(row, **choices, scale_dtype=scale_dtype, index=index, factor=factor)
    row = row.clone()
    row[index] *= factor
    stored = quantize(row[None], **choices, scale_dtype=scale_dtype)
    numbers = quantizer.numbers
    assert_close(quantizer.row(), row, rtol=0, atol=0)
    error = (stored.dequantize()[0] - row).double()
    assert numbers.codes == tuple(stored.codes()[0].tolist())
    assert numbers.restored == tuple(stored.dequantize()[0].tolist())
    assert numbers.largest_error == pytest.approx(float(error.abs().max()), rel=1e-5)
    assert numbers.rms_error == pytest.approx(float(error.square().mean().sqrt()), rel=1e-4)
    assert numbers.nbytes == stored.nbytes


def test_signal_to_noise_in_decibels():
    # Steps of 1: the largest of four weights is off by half a step, another one by 0.4.
    numbers = Quantizer(torch.tensor([7.5, 1.4, 0.0, 0.0]), group_size=None).numbers
    assert numbers.codes == (7, 1, 0, 0)
    assert numbers.largest_error == pytest.approx(0.5)
    assert numbers.rms_error == pytest.approx(math.sqrt(0.41 / 4))
    assert numbers.signal_to_noise == pytest.approx(10 * math.log10((56.25 + 1.96) / 0.41))
    exact = Quantizer(torch.ones(4), group_size=None, symmetric=False)
    assert exact.numbers.signal_to_noise == math.inf


def test_an_outlier_costs_its_own_group_alone():
    row = torch.randn(256)
    row[40] = 1.0
    calm = Quantizer(row, index=40)
    loud = Quantizer(row, index=40, factor=100)
    before, after = (torch.tensor(q.numbers.restored) - q.row() for q in (calm, loud))
    same = torch.ones(256, dtype=torch.bool)
    same[32:64] = False
    assert_close(before[same], after[same], rtol=0, atol=0)
    assert after[~same].square().mean() > 4 * before[~same].square().mean()


def test_a_row_of_the_model():
    weight = effedu.load_lm().model.gpt_neox.layers[0].mlp.dense_4h_to_h.weight
    quantizer = Quantizer(weight[0], name="a row of layer 0", bits=4, group_size=64)
    assert quantizer.index == int(weight[0].abs().argmax())
    assert 5 < quantizer.numbers.signal_to_noise < 40
    coarse = Quantizer(weight[0], bits=3, group_size=64)
    assert coarse.numbers.rms_error > quantizer.numbers.rms_error


def test_repr_and_fallback():
    quantizer = Quantizer(torch.randn(64), name="<row>", bits=3, group_size=16, symmetric=False)
    assert repr(quantizer) == "Quantizer(64 weights, bits=3, group_size=16, with offset)"
    root = ElementTree.fromstring(quantizer.fallback())
    words = "".join(root.itertext())
    assert words.startswith("64 weights, <row>, in 3 bits and groups of 16: ")
    assert f"{8 * quantizer.numbers.nbytes / 64:.2f} bits a weight" in words
    assert f"largest error is {quantizer.numbers.largest_error:.3g}" in words
    assert root.find("svg").get("aria-label") == words
    assert "in one group" not in words
    assert "4 bits and one group" in Quantizer(torch.zeros(8), group_size=None).fallback()


@pytest.mark.unchecked_shapes
@pytest.mark.parametrize(
    ("trait", "value", "message"),
    [
        ("bits", 5, "bits must be one of 2, 3, 4, 8; got 5"),
        ("group_size", 0, "group_size must divide the 64 weights, or None, got 0"),
        ("group_size", 24, "group_size must divide the 64 weights, or None, got 24"),
        ("scale_dtype", "float16", "scale_dtype must be one of float32, bfloat16; got 'float16'"),
        ("index", 64, "index must be from 0 to 63, got 64"),
        ("factor", 0.5, r"factor must be from 1 to 100, got 0\.5"),
        ("factor", math.nan, "factor must be from 1 to 100, got nan"),
    ],
)
def test_choices_that_are_not_there(trait, value, message):
    with pytest.raises(ValueError, match=message):
        Quantizer(torch.randn(64), **{trait: value})
    quantizer = Quantizer(torch.randn(64))
    before = getattr(quantizer, trait)
    with pytest.raises(ValueError, match=message):
        setattr(quantizer, trait, value)
    assert getattr(quantizer, trait) == before


@pytest.mark.unchecked_shapes
@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([1.0, 2.0], "row must be a floating-point tensor with one dimension, got list"),
        (torch.ones(2, 2), r"with one dimension, got torch.float32, \(2, 2\)"),
        (torch.ones(4, dtype=torch.int64), r"row must be a floating-point .* got torch.int64"),
        (torch.ones(1), "row must have from 2 to 1,024 weights, got 1"),
        (torch.ones(1025), "row must have from 2 to 1,024 weights, got 1,025"),
        (torch.tensor([1.0, math.nan]), "row must hold finite numbers of a weight's size, got nan"),
        (torch.tensor([1.0, 1e38]), "row must hold finite numbers of a weight's size, got 1e.38"),
    ],
)
def test_bad_rows(row, message):
    with pytest.raises(ValueError, match=message):
        Quantizer(row, group_size=None)
    with pytest.raises(ValueError, match=message):
        _checked(row)


@pytest.mark.unchecked_shapes
def test_symmetric_is_yes_or_no():
    with pytest.raises(ValueError, match="symmetric must be True or False, got 'no'"):
        Quantizer(torch.ones(32), symmetric="no")
