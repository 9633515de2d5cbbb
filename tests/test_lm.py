"""effedu.lm against slow references, transformers' own eager attention, and broken inputs."""

from __future__ import annotations

import http.server
import json
import math
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from effedu.attention import attention_weights
from effedu.lm import (
    EMBEDDED,
    LanguageModel,
    _draw,
    _windows,
    heldout_text,
    load_lm,
    recall_passages,
)

TEXT = "Ünïcödé costs more bytes — 中文字 and 🙂 too; the rest of the text is the plain one.\n" * 2
PLAIN = "the rest of the text is the plain one and costs more bytes too\n" * 4
POSITIONS = 256


# --- small random models on disk ----------------------------------------------------------------


def make_tokenizer(begin: bool = False) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<s>"] if begin else [],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([PLAIN], trainer)
    if begin:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", 0)]
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>" if begin else None)


SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
CONFIGS = {
    "neox": (transformers.GPTNeoXConfig, {"intermediate_size": 64}),
    "llama": (transformers.LlamaConfig, {"intermediate_size": 64, "num_key_value_heads": 2}),
    # Looks back 5 tokens only.
    "mistral": (
        transformers.MistralConfig,
        {"intermediate_size": 64, "num_key_value_heads": 1, "sliding_window": 5},
    ),
    # A scale of its own, not 1/sqrt(head_dim).
    "granite": (
        transformers.GraniteConfig,
        {"intermediate_size": 64, "num_key_value_heads": 4, "attention_multiplier": 0.6},
    ),
    "gpt2": (transformers.GPT2Config, {}),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One folder for each configuration, as ``save_pretrained`` writes it."""
    root = tmp_path_factory.mktemp("models")
    for kind, (make_config, options) in CONFIGS.items():
        tokenizer = make_tokenizer(begin=kind == "llama")
        config = make_config(
            vocab_size=len(tokenizer),
            max_position_embeddings=POSITIONS,
            initializer_range=0.3,  # so that attention is far from uniform
            **SMALL,
            **options,
        )
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        if kind == "neox":
            model = model.half()  # as the embedded model is stored
        model.save_pretrained(root / kind)
        tokenizer.save_pretrained(root / kind)
    write_checksums(root / "neox")
    return {kind: root / kind for kind in CONFIGS}


def write_checksums(folder: Path) -> None:
    files = ("model.safetensors", "tokenizer.json")
    checksums = {f: sha256((folder / f).read_bytes()).hexdigest() for f in files}
    (folder / "sha256.json").write_text(json.dumps(checksums))


@pytest.fixture
def neox(folders: dict[str, Path]) -> LanguageModel:
    return load_lm(folders["neox"])


@pytest.fixture(params=list(CONFIGS))
def any_lm(folders: dict[str, Path], request: pytest.FixtureRequest) -> LanguageModel:
    return load_lm(folders[request.param])


# --- loading ------------------------------------------------------------------------------------


def test_import_effedu_loads_no_transformers() -> None:
    code = "import sys, effedu; sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=300).returncode == 0


def test_loading_keeps_the_global_generator_and_gives_an_evaluating_float32_model(
    folders: dict[str, Path],
) -> None:
    before = torch.get_rng_state()
    lm = load_lm(folders["neox"])
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(module.training for module in lm.model.modules())
    assert {p.dtype for p in lm.model.parameters()} == {torch.float32}
    assert lm.context_length == POSITIONS
    assert lm.device == torch.device("cpu")


def test_folder_with_checksums_loads_the_same_model_as_transformers_does(
    neox: LanguageModel, folders: dict[str, Path]
) -> None:
    theirs = transformers.GPTNeoXForCausalLM.from_pretrained(folders["neox"], dtype=torch.float32)
    ids = torch.arange(20)[None]
    torch.testing.assert_close(neox.model(ids).logits, theirs(ids).logits)


def test_tied_output_matrix_need_not_be_in_the_file(tmp_path: Path) -> None:
    config = transformers.GPTNeoXConfig(
        vocab_size=320, hidden_size=32, num_hidden_layers=1, num_attention_heads=4,
        intermediate_size=64, tie_word_embeddings=True,
    )  # fmt: skip
    model = transformers.GPTNeoXForCausalLM(config).eval()
    model.save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    write_checksums(tmp_path)
    ids = torch.arange(20)[None]
    torch.testing.assert_close(load_lm(tmp_path).model(ids).logits, model(ids).logits)


def test_dtype(folders: dict[str, Path]) -> None:
    for kind in ("neox", "llama"):
        lm = load_lm(folders[kind], dtype=torch.bfloat16)
        assert lm.model.dtype == lm.model.config.dtype == torch.bfloat16
        assert math.isfinite(lm.bits_per_byte(TEXT, length=32))


def test_repr_is_short_and_stable(any_lm: LanguageModel, folders: dict[str, Path]) -> None:
    assert repr(any_lm) == repr(load_lm(any_lm.name))
    assert repr(any_lm).startswith(f"LanguageModel({any_lm.name!r}, {type(any_lm.model).__name__}")
    assert repr(any_lm).endswith("0.0M parameters, cpu, float32)")


@pytest.mark.parametrize("dtype", [torch.int64, torch.complex64, torch.float8_e4m3fn])
def test_wrong_dtype(dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match=rf"dtype must be float32, .* got {dtype}"):
        load_lm(dtype=dtype)


@pytest.mark.parametrize("device", ["nonsense", "meta", torch.device("cuda", 99)])
def test_wrong_device(device: str | torch.device) -> None:
    with pytest.raises(ValueError, match=rf"device must be one PyTorch can use .* '{device}'"):
        load_lm(device=device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_without_cuda() -> None:
    with pytest.raises(ValueError, match=r"device must be .* got 'cuda': "):
        load_lm(device="cuda")


@pytest.mark.cuda
def test_cuda_gives_the_cpu_results(folders: dict[str, Path]) -> None:
    here, there = load_lm(folders["neox"]), load_lm(folders["neox"], device="cuda")
    assert there.device.type == "cuda"
    bits = here.bits_per_byte(TEXT, length=32)
    assert there.bits_per_byte(TEXT, length=32) == pytest.approx(bits, rel=1e-3)
    torch.testing.assert_close(
        there.attention_maps(TEXT), here.attention_maps(TEXT), atol=1e-3, rtol=0
    )
    assert there.generate("the ", 5, temperature=0) == here.generate("the ", 5, temperature=0)


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json"])
def test_damaged_file(file: str, folders: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(folders["neox"], tmp_path, dirs_exist_ok=True)
    data = bytearray((tmp_path / file).read_bytes())
    data[-1] ^= 1
    (tmp_path / file).write_bytes(data)
    with pytest.raises(OSError, match=f"{file} is damaged: its SHA-256 is"):
        load_lm(tmp_path)


@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
def test_missing_file(file: str, folders: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(folders["neox"], tmp_path, dirs_exist_ok=True)
    (tmp_path / file).unlink()
    with pytest.raises(OSError, match=f"{file} is missing; install effedu again"):
        load_lm(tmp_path)


def test_weights_that_do_not_fit_the_config(folders: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(folders["neox"], tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(OSError, match=r"does not fit config\.json: missing \['gpt_neox.layers\.2"):
        load_lm(tmp_path)


@pytest.mark.parametrize("name", ["no such", "./nowhere", "/nowhere", "a/b/c", "", "../x", "~/no"])
def test_name_that_is_neither_folder_nor_hub_name(name: str) -> None:
    with pytest.raises(ValueError, match="name must be a folder that exists or a hub name"):
        load_lm(name)


def test_bidirectional_model(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    config = transformers.BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=64,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.BertForMaskedLM(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="is not a causal language model: what BertLMHeadModel"):
        load_lm(tmp_path)


def test_encoder_decoder_model(tmp_path: Path) -> None:
    config = transformers.T5Config(vocab_size=320, d_model=32, d_kv=8, d_ff=64, num_layers=1)
    transformers.T5ForConditionalGeneration(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"as a causal language model: .*T5Config"):
        load_lm(tmp_path)


def test_folder_without_safetensors(folders: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(folders["llama"], tmp_path, dirs_exist_ok=True)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(OSError, match=r"cannot load .* no file named model\.safetensors"):
        load_lm(tmp_path)


def test_code_of_a_models_author_never_runs(folders: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(folders["llama"], tmp_path, dirs_exist_ok=True)
    (tmp_path / "theirs.py").write_text("raise SystemExit('their code ran')")
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"model_type": "theirs", "auto_map": {"AutoConfig": "theirs.Theirs"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="cannot load"):
        load_lm(tmp_path)


def test_tokenizer_without_offsets(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PreTrainedTokenizerFast, "is_fast", False)
    with pytest.raises(ValueError, match="is not a fast tokenizer"):
        load_lm(folders["gpt2"])


# --- the hub ------------------------------------------------------------------------------------


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)  # set in conftest
    return tmp_path


@pytest.mark.usefixtures("empty_cache")
def test_offline_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match="can't be reached"):
        load_lm("EleutherAI/pythia-70m")


@pytest.mark.usefixtures("empty_cache")
def test_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]  # closed again below, so connecting is refused
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{port}")
    waits: list[float] = []
    monkeypatch.setattr("time.sleep", waits.append)
    with pytest.raises(OSError, match=r"hub can't be reached; load_lm\(\) gives") as info:
        load_lm("EleutherAI/pythia-70m")
    assert "\n" not in str(info.value)
    assert not waits  # no retries


@pytest.fixture
def hub_without_models(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
    yield
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.usefixtures("hub_without_models")
def test_wrong_hub_name() -> None:
    with pytest.raises(ValueError, match="hub has no public model named 'nobody/nothing', and "):
        load_lm("nobody/nothing")


@pytest.mark.usefixtures("hub_without_models")
def test_cached_hub_model_needs_no_hub(folders: dict[str, Path], empty_cache: Path) -> None:
    model = empty_cache / "models--somebody--tiny"
    shutil.copytree(folders["llama"], model / "snapshots" / "0123abcd")
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text("0123abcd")
    lm = load_lm("somebody/tiny")
    assert lm.name == "somebody/tiny"
    same = load_lm(folders["llama"])
    assert lm.bits_per_byte(TEXT, length=64) == same.bits_per_byte(TEXT, length=64)


# --- tokens -------------------------------------------------------------------------------------


def test_tokens_are_readable(neox: LanguageModel) -> None:
    assert neox.tokens("the text—\n \u0120") == [
        "the", " text", r"\xe2", r"\x80", r"\x94", "\n", " ", r"\xc4", r"\xa0",
    ]  # fmt: skip


def test_tokens_show_the_begin_of_text(folders: dict[str, Path]) -> None:
    assert load_lm(folders["llama"]).tokens("the text")[0] == "<s>"


def test_tokens_of_sentencepiece_like_tokenizers(neox: LanguageModel) -> None:
    vocab = {"<unk>": 0, "▁the": 1, "▁text": 2, "<0xC3>": 3, "<0xBC>": 4, "▁": 5}
    bpe = Tokenizer(
        models.WordLevel({**vocab, "▁<0xC3>": 6}, unk_token="<unk>")  # looks words up
    )
    bpe.pre_tokenizer = pre_tokenizers.Metaspace()
    bpe.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe)
    lm = LanguageModel("words", neox.model, tokenizer)
    assert lm.tokens("the text") == [" the", " text"]
    assert lm.readable(3) == r"\xc3"


# --- generation ---------------------------------------------------------------------------------


def test_greedy_generation_is_that_of_transformers(any_lm: LanguageModel) -> None:
    ids = torch.tensor([any_lm._encode("the rest of")[0]])
    theirs = any_lm.model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=12,
        eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    expected = any_lm.tokenizer.decode(theirs[0, ids.shape[1] :])
    assert any_lm.generate("the rest of", 12, temperature=0) == expected
    assert any_lm.generate("the rest of", 12, top_k=1) == expected


def test_generation_without_a_cache_is_the_same(
    neox: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = neox.generate("the rest", 20, seed=3)
    forward = neox.model.forward

    def forget(*args: object, **kwargs: object) -> object:
        output = forward(*args, **kwargs)
        output.past_key_values = None
        return output

    monkeypatch.setattr(neox.model, "forward", forget)
    assert neox.generate("the rest", 20, seed=3) == cached


def test_seed_alone_decides(neox: LanguageModel) -> None:
    torch.manual_seed(1)
    first = neox.generate("the", 20, seed=5)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    assert neox.generate("the", 20, seed=5) == first
    assert torch.equal(torch.get_rng_state(), before)
    assert neox.generate("the", 20, seed=6) != first


def test_draw_follows_temperature_and_top_k() -> None:
    logits = torch.tensor([1.0, 0.0, 2.0, -1.0])
    generator = torch.Generator().manual_seed(0)
    draws = torch.tensor([_draw(logits, 2.0, None, generator) for _ in range(4000)])
    shares = draws.bincount(minlength=4) / 4000
    torch.testing.assert_close(shares, (logits / 2).softmax(0), atol=0.03, rtol=0)
    assert {_draw(logits, 1.0, 2, generator) for _ in range(200)} == {0, 2}
    assert {_draw(logits, 1e-300, None, generator) for _ in range(20)} == {2}


def test_generation_stops_at_the_end_of_text(neox: LanguageModel) -> None:
    whole = neox.model.generate(
        torch.tensor([neox._encode("the")[0]]), do_sample=False, max_new_tokens=10,
        eos_token_id=None, pad_token_id=0,
    )[0].tolist()  # fmt: skip
    start = len(neox._encode("the")[0])
    end = next(i for i in range(start + 1, len(whole)) if whole[i] not in whole[start:i])
    neox.tokenizer.eos_token = neox.tokenizer.convert_ids_to_tokens(whole[end])
    expected = neox.tokenizer.decode(whole[start:end])
    assert neox.generate("the", 50, temperature=0) == expected


def test_empty_text_starts_from_a_line_break_or_the_begin_of_text(
    neox: LanguageModel, folders: dict[str, Path]
) -> None:
    assert neox.generate("", 10) == neox.generate("\n", 10)
    llama = load_lm(folders["llama"])
    assert llama._encode("")[0] == [llama.tokenizer.bos_token_id]
    assert llama.generate("", 10)


def test_generation_may_fill_the_context_and_no_more(neox: LanguageModel) -> None:
    tokens = len(neox.tokens("the text"))
    assert neox.generate("the text", POSITIONS - tokens)
    with pytest.raises(
        ValueError,
        match=rf"text \({tokens} tokens\) and max_new_tokens \({POSITIONS}\) must fit in the "
        f"model's {POSITIONS} positions; shorten",
    ):
        neox.generate("the text", POSITIONS)


def test_generate_arguments(neox: LanguageModel) -> None:
    with pytest.raises(ValueError, match="max_new_tokens must be an integer of at least 1, got 0"):
        neox.generate("a", 0)
    with pytest.raises(ValueError, match="seed must be an integer of at least 0, got -1"):
        neox.generate("a", seed=-1)
    for temperature in (-0.5, math.nan, math.inf):
        with pytest.raises(ValueError, match="temperature must be a finite number >= 0, got"):
            neox.generate("a", temperature=temperature)
    with pytest.raises(ValueError, match="top_k must be an integer of at least 1, got 0"):
        neox.generate("a", top_k=0)


# --- bits per byte ------------------------------------------------------------------------------


def slow_bits_per_byte(lm: LanguageModel, text: str, length: int, stride: int) -> float:
    """One forward pass a token, straight from the definition; no begin-of-text token."""
    encoding = lm.tokenizer(text, return_offsets_mapping=True)
    ids, offsets = encoding["input_ids"], encoding["offset_mapping"]
    split = next(i for i in range(1, len(ids)) if offsets[i][1] != offsets[0][1])
    bits = 0.0
    for t in range(split, len(ids)):
        start = stride * max(0, math.ceil((t - length) / stride))  # first window that reaches t
        with torch.no_grad():
            logits = lm.model(torch.tensor([ids[start:t]])).logits[0, -1].double()
        bits -= logits.log_softmax(-1)[ids[t]].item() / math.log(2)
    return bits / len(text[offsets[split - 1][1] :].encode())


@pytest.mark.parametrize(
    ("length", "stride"), [(1, 1), (8, 8), (8, 3), (16, 1), (64, 64), (POSITIONS, 100)]
)
def test_bits_per_byte_against_the_slow_reference(
    neox: LanguageModel, length: int, stride: int
) -> None:
    for text in (TEXT, "🙂 is four bytes; one token is not a character.", "a b"):
        expected = slow_bits_per_byte(neox, text, length, stride)
        assert neox.bits_per_byte(text, length, stride) == pytest.approx(expected, rel=1e-5)


def test_default_stride_puts_windows_side_by_side(neox: LanguageModel) -> None:
    assert neox.bits_per_byte(TEXT, 16) == neox.bits_per_byte(TEXT, 16, 16)
    assert neox.bits_per_byte(TEXT) == neox.bits_per_byte(TEXT, POSITIONS)


def test_bits_per_byte_with_a_begin_of_text_counts_every_byte(folders: dict[str, Path]) -> None:
    lm = load_lm(folders["llama"])
    ids = lm.tokenizer(TEXT)["input_ids"]
    with torch.no_grad():
        loss = lm.model(torch.tensor([ids]), labels=torch.tensor([ids])).loss.item()
    expected = loss * (len(ids) - 1) / math.log(2) / len(TEXT.encode())
    assert lm.bits_per_byte(TEXT, length=len(ids)) == pytest.approx(expected, rel=1e-5)
    # Windows of 9: the begin-of-text token and 8 of the text's own, in each window.
    own, nats = ids[1:], 0.0
    for t in range(len(own)):
        start = 8 * max(0, math.ceil((t - 8) / 8))
        with torch.no_grad():
            logits = lm.model(torch.tensor([ids[:1] + own[start:t]])).logits[0, -1]
        nats -= logits.log_softmax(-1)[own[t]].item()
    bits = nats / math.log(2) / len(TEXT.encode())
    assert lm.bits_per_byte(TEXT, length=9) == pytest.approx(bits, rel=1e-5)


@pytest.mark.parametrize("batch_size", [1, 3, 1000])
def test_bits_per_byte_does_not_depend_on_the_batch(neox: LanguageModel, batch_size: int) -> None:
    expected = neox.bits_per_byte(TEXT, length=8, stride=5)
    got = neox.bits_per_byte(TEXT, length=8, stride=5, batch_size=batch_size)
    assert got == pytest.approx(expected, rel=1e-5)


def test_uniform_model_needs_log2_vocabulary_bits_a_token(neox: LanguageModel) -> None:
    torch.nn.init.zeros_(neox.model.get_output_embeddings().weight)
    tokens = len(neox.tokens(TEXT)) - 2  # the first character, Ü, is two tokens
    expected = math.log2(neox.model.config.vocab_size) * tokens / len(TEXT[1:].encode())
    assert neox.tokens(TEXT)[:2] == [r"\xc3", r"\x9c"]
    assert neox.bits_per_byte(TEXT, length=16) == pytest.approx(expected, rel=1e-6)


@given(count=st.integers(2, 200), room=st.integers(1, 50), data=st.data(), first=st.integers(0, 4))
def test_windows_count_each_token_once_with_enough_context(
    count: int, room: int, data: st.DataObject, first: int
) -> None:
    stride = data.draw(st.integers(1, room))
    windows = list(_windows(count, room, stride, first))
    counted = [t for w in windows for t in range(w.first, w.stop + 1)]
    assert counted == list(range(first, count))
    for w in windows:
        assert w.stop - w.start <= room
        assert w.start % stride == 0
        assert w.start == 0 or w.first - w.start >= room - stride + 1


def test_bits_per_byte_arguments(neox: LanguageModel, folders: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match="length must be an integer of at least 1, got 0"):
        neox.bits_per_byte(TEXT, 0)
    with pytest.raises(ValueError, match="length must be an integer of at least 2, got 1"):
        load_lm(folders["llama"]).bits_per_byte(TEXT, 1)
    with pytest.raises(ValueError, match=f"length must be at most the model's {POSITIONS} pos"):
        neox.bits_per_byte(TEXT, POSITIONS + 1)
    with pytest.raises(ValueError, match="stride must be an integer of at least 1, got 0"):
        neox.bits_per_byte(TEXT, 8, 0)
    with pytest.raises(ValueError, match="stride must be from 1 to 8, got 9"):
        neox.bits_per_byte(TEXT, 8, 9)
    with pytest.raises(ValueError, match="batch_size must be an integer of at least 1, got 0"):
        neox.bits_per_byte(TEXT, 8, batch_size=0)
    for text in ("", "a", "中"):
        with pytest.raises(ValueError, match="text must hold at least one token after its first"):
            neox.bits_per_byte(text)


# --- what follows a prompt ----------------------------------------------------------------------


def always(lm: LanguageModel, token: str) -> LanguageModel:
    """Make the model answer ``token`` wherever it is asked."""
    hidden = lm.model.config.hidden_size
    last = lm.model.gpt_neox.final_layer_norm
    with torch.no_grad():
        last.weight.zero_()
        last.bias.copy_(torch.eye(hidden)[0])
        head = lm.model.get_output_embeddings().weight.zero_()
        head[lm.tokenizer.convert_tokens_to_ids(token), 0] = 1
    return lm


def test_predicts_only_if_every_token_is_the_first_choice(neox: LanguageModel) -> None:
    lm = always(neox, "z")
    assert lm.predicts("the text", "z")
    assert lm.predicts("the text", "zzz")
    assert not lm.predicts("the text", "zzq")
    assert not lm.predicts("the text", "qzz")


def test_predicts_tokenizes_both_together(neox: LanguageModel) -> None:
    assert neox.tokens("the text")[-1] == " text"
    assert neox.tokens("the te") != neox.tokens("the text")[:-1]
    lm = always(neox, "Ġtext")
    assert lm.predicts("the te", "xt")  # " text" straddles the border, and is what is predicted
    assert lm.predicts("the", " text")


def test_predicts_agrees_with_greedy_generation(any_lm: LanguageModel) -> None:
    for prompt in ("the text", "more", "the plain rest", "one of"):
        answer = any_lm.generate(prompt, 1, temperature=0)
        ids = any_lm._encode(prompt)[0]
        if any_lm._encode(prompt + answer)[0][: len(ids)] != ids or "\ufffd" in answer:
            continue  # tokenized as one text, the answer gets other tokens
        assert any_lm.predicts(prompt, answer)
        assert not any_lm.predicts(prompt, "\x00" if answer != "\x00" else "\x01")


def test_predicts_arguments(neox: LanguageModel) -> None:
    with pytest.raises(ValueError, match="answer must not be empty, got ''"):
        neox.predicts("a", "")
    with pytest.raises(ValueError, match="prompt must hold at least one token, got ''"):
        neox.predicts("", "a")
    with pytest.raises(ValueError, match=r"prompt \+ answer must have at most the model's"):
        neox.predicts("中" * POSITIONS, "a")


# --- attention ----------------------------------------------------------------------------------


def test_attention_maps_are_those_of_transformers_eager_attention(
    any_lm: LanguageModel, folders: dict[str, Path]
) -> None:
    eager = transformers.AutoModelForCausalLM.from_pretrained(
        any_lm.name, dtype=torch.float32, attn_implementation="eager"
    )
    with torch.no_grad():
        output = eager(torch.tensor([any_lm._encode(TEXT)[0]]), output_attentions=True)
    maps = any_lm.attention_maps(TEXT)
    assert maps.shape[-1] == len(any_lm.tokens(TEXT))
    torch.testing.assert_close(maps, torch.cat(output.attentions), atol=1e-5, rtol=0)
    assert maps.std() > 0.01  # not the uniform maps of a model that looks at nothing


@pytest.mark.parametrize("kind", ["neox", "llama", "granite", "gpt2"])
def test_attention_inputs_give_the_maps(kind: str, folders: dict[str, Path]) -> None:
    lm = load_lm(folders[kind])
    tokens, query, key = lm.attention_inputs(TEXT)
    assert tokens == lm.tokens(TEXT)
    assert query.shape == key.shape == (2, 4, len(tokens), 8)
    torch.testing.assert_close(
        attention_weights(query, key), lm.attention_maps(TEXT), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("kind", ["neox", "llama", "granite", "gpt2"])
def test_attention_values_are_those_of_the_cache(kind: str, folders: dict[str, Path]) -> None:
    lm = load_lm(folders[kind])
    values = lm.attention_values(TEXT)
    assert values.shape == (2, 4, len(lm.tokens(TEXT)), 8)
    with torch.no_grad():
        cache = lm.model(lm._row(lm._encode(TEXT)[0]), use_cache=True).past_key_values
    for layer, cached in zip(values, cache.layers, strict=True):
        for head in range(4):  # grouped heads share theirs
            expected = cached.values[0, head * cached.values.shape[1] // 4]
            torch.testing.assert_close(layer[head], expected, atol=1e-5, rtol=0)


def test_attention_inputs_are_rotated_in_part(neox: LanguageModel) -> None:
    """The same token at every place: only the rotated quarter of the width can differ."""
    _, query, _ = neox.attention_inputs("zzzzzzzz")
    moved = (query[0] - query[0, :, :1]).abs().amax(dim=(0, 1))  # (head_dim,)
    assert (moved[:2] > 1e-3).all()
    assert (moved[2:] < 1e-5).all()


def test_attention_maps_show_the_attention_that_runs(neox: LanguageModel) -> None:
    def mean_of_values(module, query, key, value, attention_mask, **_):
        shape = (*query.shape[:3], value.shape[-1])
        return value.mean(2, keepdim=True).expand(shape).transpose(1, 2), None

    transformers.AttentionInterface.register("mean_of_values", mean_of_values)
    neox.model.set_attn_implementation("mean_of_values")
    maps = neox.attention_maps("the text is")
    torch.testing.assert_close(maps, torch.full_like(maps, 1 / maps.shape[-1]))
    assert neox.model.config._attn_implementation == "mean_of_values"


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_recording_leaves_the_model_as_it_was(
    neox: LanguageModel, implementation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    neox.model.set_attn_implementation(implementation)
    before = neox.bits_per_byte(TEXT, 32)
    neox.attention_maps("the text")
    neox.attention_inputs("the text")
    assert neox.model.config._attn_implementation == implementation
    assert neox.bits_per_byte(TEXT, 32) == before

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("stopped half-way")

    monkeypatch.setattr(neox.model.gpt_neox.layers[1], "forward", fail)
    with pytest.raises(RuntimeError, match="stopped half-way"):
        neox.attention_maps("the text")
    assert neox.model.config._attn_implementation == implementation


def test_attention_of_unsupported_models(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    small = {"vocab_size": len(tokenizer), "hidden_size": 32}
    bloom = transformers.BloomConfig(**small, n_layer=1, n_head=4)
    mamba = transformers.MambaConfig(**small, num_hidden_layers=1, state_size=4)
    for config in (bloom, mamba):
        model = transformers.AutoModelForCausalLM.from_config(config)
        lm = LanguageModel("tiny", model.eval(), tokenizer)
        with pytest.raises(ValueError, match="does not run its attention through transformers'"):
            lm.attention_maps("the text")
        assert lm.context_length is None
        assert lm.generate("the text", 3)


def test_attention_text(neox: LanguageModel) -> None:
    for method in (neox.attention_maps, neox.attention_inputs, neox.attention_values):
        with pytest.raises(ValueError, match="text must hold at least one token, got ''"):
            method("")
        with pytest.raises(ValueError, match=f"at most the model's {POSITIONS} positions, got"):
            method("中" * POSITIONS)


# --- the embedded model -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def embedded() -> LanguageModel:
    return load_lm()


def test_embedded_model_opens_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the embedded model asked for a network connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    lm = load_lm()
    assert isinstance(lm.model, transformers.GPTNeoXForCausalLM)
    assert repr(lm).startswith("LanguageModel('embedded', GPTNeoXForCausalLM, ")


def test_embedded_files() -> None:
    assert (EMBEDDED / "model.safetensors").stat().st_size <= 12e6
    assert (EMBEDDED / "MODEL_CARD.md").is_file()
    recorded = json.loads((EMBEDDED / "sha256.json").read_text())
    assert recorded.keys() >= {"model.safetensors", "tokenizer.json"}
    with safe_open(EMBEDDED / "model.safetensors", framework="pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.float16}  # noqa: SIM118


def test_embedded_tokenizer_gives_back_every_text(embedded: LanguageModel) -> None:
    text = heldout_text()[:20_000] + TEXT
    assert embedded.tokenizer.decode(embedded.tokenizer(text)["input_ids"]) == text


def test_embedded_model_reads_prose_it_has_not_seen(embedded: LanguageModel) -> None:
    text = heldout_text()
    assert embedded.bits_per_byte(text[:40_000], length=1024) < 2.01  # the first trial's


def test_embedded_model_writes_english(embedded: LanguageModel) -> None:
    """Most words it writes stand somewhere in the held-out text too."""
    known = set(heldout_text().lower().split())
    words = embedded.generate("The ", 200, seed=0).lower().split()
    assert len(words) > 50
    assert sum(word in known for word in words) / len(words) > 0.6


def test_embedded_model_looks_somewhere(embedded: LanguageModel) -> None:
    text = heldout_text()[:600]
    tokens, query, key = embedded.attention_inputs(text)
    assert "".join(tokens) == text
    maps = embedded.attention_maps(text)
    torch.testing.assert_close(attention_weights(query, key), maps, atol=1e-5, rtol=0)


def test_embedded_model_answers_nearby_questions(embedded: LanguageModel) -> None:
    near = [p for p in recall_passages() if p["distance_tokens"] < 100][:12]
    right = sum(embedded.predicts(p["prompt"], p["answer"]) for p in near)
    assert right >= len(near) / 2 > 0
    wrong = sum(embedded.predicts(p["prompt"], near[i - 1]["answer"]) for i, p in enumerate(near))
    assert wrong < right
