"""effedu.linears: replaced layers compute what they say, go again, and are saved and loaded."""

from __future__ import annotations

import copy
import gc
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from tiny_models import FAMILIES, VOCAB, some_tokens
from torch import Tensor, nn
from transformers import PreTrainedModel

import effedu
from effedu.calibration import input_statistics
from effedu.compression import LowRankLinear, break_even_rank
from effedu.linears import Int8Embedding, convert, int4, int8, low_rank, nbytes
from effedu.patch import block, dense, patched, streaming
from effedu.quantized_linear import Int4Linear, Int8Linear

METHODS = {
    "int8": int8(),
    "int8 head": int8(lm_head=True),
    "int4": int4(16),
    "low_rank": low_rank(0.5),
    "low_rank head": low_rank(0.7, lm_head=True),
    "int8 all": int8(lm_head=True, embeddings=True),
    "int4 all": int4(16, lm_head=True, embeddings=True),
}
NEW = (Int8Linear, Int4Linear, LowRankLinear)


def small_model(family: str) -> PreTrainedModel:
    torch.manual_seed(0)
    return FAMILIES[family]().eval()


def logits(model: nn.Module, tokens: Tensor, **kwargs: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(tokens, **kwargs).logits
    return found


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=METHODS)
def method(request: pytest.FixtureRequest, family: str) -> Any:
    if "all" in request.param and family.startswith("gemma"):
        pytest.skip("Gemma scales what it looks up, in an embedding class of its own")
    return METHODS[request.param]


def test_inside_and_out_again(family: str, method: Any) -> None:
    model, tokens = small_model(family), some_tokens(2, 20)
    layers, plain = dict(model.named_modules()), logits(model, tokens)
    with patched(model, linear=method) as cheap:
        assert cheap is model
        found = logits(model, tokens)
        swapped = [m for m in model.modules() if isinstance(m, NEW)]
        left = [m for m in model.modules() if type(m) is nn.Linear and m not in _inside(swapped)]
    assert len(swapped) >= 8
    assert len(left) == (0 if method.lm_head else 1)
    assert (found - plain).abs().max() > 0
    assert dict(model.named_modules()) == layers
    assert torch.equal(logits(model, tokens), plain)


def _inside(layers: list[Any]) -> list[nn.Module]:
    return [part for layer in layers for part in layer.modules()]


def test_each_layer_computes_what_its_class_does(family: str) -> None:
    model = small_model(family)
    name, layer = next(
        (name, layer)
        for name, layer in model.named_modules()
        if type(layer).__name__ in ("Linear", "Conv1D")
    )
    x = torch.randn(3, 32)
    with torch.no_grad():
        plain = layer(x)
    for method, bound in ((int8(), 0.03), (int4(16), 0.25)):
        with patched(model, linear=method):
            found = model.get_submodule(name)(x)
        assert (found - plain).norm() < bound * plain.norm()
    with patched(model, linear=low_rank(0.999)):
        thin = model.get_submodule(name)
        rank = int(0.999 * break_even_rank(plain.shape[1], 32))
        assert thin.narrow.out_features == rank


def test_converted_saved_and_loaded(family: str, method: Any, tmp_path: Path) -> None:
    model, tokens = small_model(family), some_tokens(2, 20)
    before = nbytes(model)
    with patched(model, linear=method):
        expected = logits(model, tokens)
    assert convert(model, method) is model
    torch.testing.assert_close(logits(model, tokens), expected)
    assert nbytes(model) < before
    model.save_pretrained(tmp_path)
    loaded = hf.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert torch.equal(logits(loaded, tokens), logits(model, tokens))
    assert nbytes(loaded) == nbytes(model)
    assert type(loaded.config.quantization_config).__name__ == "EffeduConfig"


def test_a_converted_model_generates_and_is_copied() -> None:
    model = convert(small_model("llama"), int8(lm_head=True, embeddings=True))
    tokens = some_tokens(1, 5)
    made = model.generate(tokens, max_new_tokens=8, do_sample=False)
    again = copy.deepcopy(model).generate(tokens, max_new_tokens=8, do_sample=False)
    assert made.shape == (1, 13)
    assert torch.equal(made, again)


def test_a_saved_model_opens_in_a_new_process(tmp_path: Path) -> None:
    """load_lm alone knows how to read what convert wrote."""
    lm = effedu.load_lm()
    convert(lm.model, int4(lm_head=True, embeddings=True))
    lm.model.save_pretrained(tmp_path)
    lm.tokenizer.save_pretrained(tmp_path)
    text = "Good night, good night! Parting is such sweet sorrow."
    code = (
        "import sys, effedu; lm = effedu.load_lm(sys.argv[1]); "
        "print(lm.bits_per_byte(sys.argv[2] * 8, length=128))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path, text], capture_output=True, text=True, check=True
    )
    assert float(done.stdout) == pytest.approx(lm.bits_per_byte(text * 8, length=128), rel=1e-3)
    size = sum(file.stat().st_size for file in tmp_path.glob("*.safetensors"))
    assert size < 3_000_000  # 15.8 MB in float32


def test_memory_really_falls() -> None:
    """Bytes by the count, and by what the tensors of the whole process hold."""

    def held() -> int:
        gc.collect()
        tensors = [x for x in gc.get_objects() if issubclass(type(x), Tensor)]
        storages = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in tensors}
        return sum(storages.values())

    sizes = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 4}
    model = hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(vocab_size=64, num_attention_heads=4, **sizes))
    model.requires_grad_(False)
    counted, before = nbytes(model), held()
    convert(model, int8())
    counted, fell = counted - nbytes(model), before - held()
    assert counted == pytest.approx(0.745 * (counted + nbytes(model)), rel=0.05)
    assert fell == pytest.approx(counted, rel=0.02)


def test_nbytes_counts_shared_numbers_once() -> None:
    model = small_model("gpt2")
    assert model.lm_head.weight is model.transformer.wte.weight
    assert nbytes(model) == sum(p.nbytes for p in model.parameters())


def test_a_packed_layer_is_counted() -> None:
    layer = Int8Linear(64, 64)
    before = nbytes(layer)
    layer(torch.randn(4, 64))  # may bring the codes into a library's own order
    assert nbytes(layer) == before == layer.nbytes


def test_rounding_with_statistics_is_better() -> None:
    lm = effedu.load_lm()
    text, tested = effedu.lm.heldout_text()[-12_000:], effedu.lm.heldout_text()[:12_000]
    statistics = input_statistics(lm.model, lambda: lm.bits_per_byte(text, 512))
    bits = {}
    for name, method in {
        "dense": None,
        "nearest": low_rank(0.7),
        "with statistics": low_rank(0.7, statistics=statistics),
        "int4": int4(128),
        "gptq": int4(128, statistics=statistics),
    }.items():
        if method is None:
            bits[name] = lm.bits_per_byte(tested, 512)
            continue
        with patched(lm.model, linear=method):
            bits[name] = lm.bits_per_byte(tested, 512)
    assert bits["dense"] < bits["with statistics"] < bits["nearest"]
    assert bits["dense"] < bits["gptq"] < bits["int4"]


def test_with_an_attention_and_a_cache() -> None:
    model, tokens = small_model("gpt_neox"), some_tokens(1, 24)
    with patched(model, linear=int8()):
        dense_int8 = logits(model, tokens)
    with patched(model, dense(), linear=int8()):
        torch.testing.assert_close(logits(model, tokens), dense_int8, atol=1e-4, rtol=1e-4)
    with patched(model, block(4, blocks_back=0), linear=int8()):
        blocks = logits(model, tokens)
        torch.testing.assert_close(
            blocks[:, :4], logits(model, tokens[:, :4]), atol=1e-4, rtol=1e-4
        )
    assert (blocks - dense_int8).abs().max() > 0.1
    with patched(model, cache=streaming(8), linear=int4(16)):
        assert model.generate(tokens, max_new_tokens=20).shape == (1, 44)


def test_blocks_nest_and_only_the_attention_of_the_innermost_counts() -> None:
    model, tokens = small_model("gpt_neox"), some_tokens(1, 24)
    with patched(model, block(4)):
        before = logits(model, tokens)
        with patched(model, linear=int8()):  # leaves the attention alone
            inner = logits(model, tokens)
        assert torch.equal(logits(model, tokens), before)
    with patched(model, block(4), linear=int8()):
        assert torch.equal(logits(model, tokens), inner)


def test_a_model_whose_attention_can_not_be_patched() -> None:
    config = hf.BloomConfig(vocab_size=VOCAB, hidden_size=32, n_layer=1, n_head=4)
    model = hf.BloomForCausalLM(config).eval()
    tokens = some_tokens(1, 9)
    plain = logits(model, tokens)
    with patched(model, linear=int8()):
        assert 0 < (logits(model, tokens) - plain).norm() < 0.1 * plain.norm()


def test_restored_after_an_exception() -> None:
    model, tokens = small_model("gpt_neox"), some_tokens(1, 9)
    plain = logits(model, tokens)
    with pytest.raises(KeyError), patched(model, linear=int8()):
        raise KeyError
    assert torch.equal(logits(model, tokens), plain)


def test_an_embedding_in_8_bits() -> None:
    table = nn.Embedding(10, 64)
    rounded = Int8Embedding.from_embedding(table)
    ids = torch.tensor([[1, 2], [9, 0]])
    found = rounded(ids)
    assert (found.shape, found.dtype) == ((2, 2, 64), torch.float32)
    step = table.weight.abs().amax(1, keepdim=True) / 127
    assert ((found - table(ids)).abs() <= 0.501 * step[ids]).all()
    assert Int8Embedding.from_embedding(table.bfloat16())(ids).dtype == torch.bfloat16


# --- What is refused ------------------------------------------------------------------------------


@pytest.mark.unchecked_shapes
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: int4(1), "group_size must be an integer of at least 2, got 1"),
        (lambda: low_rank(1.0), r"keep must be between 0 and 1, got 1\.0"),
        (lambda: low_rank("half"), "keep must be between 0 and 1, got 'half'"),
        (
            lambda: convert(nn.Linear(2, 2), int8()),
            "model must be a transformers causal language model, got Linear",
        ),
        (
            lambda: convert(small_model("llama"), 8),
            r"linear must be one such as int8\(\) or int4\(64\), got 8",
        ),
        (
            lambda: convert(small_model("llama"), int4(64)),
            r"q_proj can't be replaced: group_size must be even and divide in_features",
        ),
        (
            lambda: convert(small_model("llama"), low_rank(0.5, statistics={})),
            r"statistics must hold every layer that is replaced, model\.layers\.0.* is missing",
        ),
        (
            lambda: convert(small_model("gemma"), int8(embeddings=True)),
            "the embeddings can't be replaced: they are a GemmaTextScaledWordEmbedding",
        ),
        (
            lambda: convert(convert(small_model("llama"), int8()), int8()),
            "model must not be quantized already",
        ),
    ],
)
def test_bad_input(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_nothing_is_changed_where_one_layer_can_not_be_replaced() -> None:
    model = small_model("gpt_neox")  # widths 32 and 48: 32 divides only the first
    layers = dict(model.named_modules())
    with pytest.raises(ValueError, match="dense_4h_to_h can't be replaced"):
        convert(model, int4(32))
    assert dict(model.named_modules()) == layers
    assert getattr(model.config, "quantization_config", None) is None


def test_a_model_without_linear_layers() -> None:
    class Bare(PreTrainedModel):  # type: ignore[misc]
        config_class = hf.GPTNeoXConfig

        def get_output_embeddings(self) -> None:
            return None

        def get_input_embeddings(self) -> None:
            return None

    with pytest.raises(ValueError, match="Bare has no linear layers to replace"):
        convert(Bare(hf.GPTNeoXConfig()), int8())


def test_quantizing_while_loading_is_refused(tmp_path: Path) -> None:
    from effedu.linears import EffeduConfig

    small_model("llama").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"load the model as it is, then call .*convert"):
        hf.AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=EffeduConfig("int8"))
    with pytest.raises(ValueError, match="method must be one of int8, int4, low_rank, got 'int2'"):
        EffeduConfig("int2")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("name", METHODS)
def test_on_cuda(name: str) -> None:
    model, tokens = small_model("llama").cuda(), some_tokens(2, 20).cuda()
    plain = logits(model, tokens)
    with patched(model, linear=METHODS[name]):
        found = logits(model, tokens)
    assert found.is_cuda
    assert (found - plain).norm() < 1.5 * plain.norm()
