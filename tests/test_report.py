"""effedu.report and its command: numbers against slow references, pages, and every bad input."""

from __future__ import annotations

import copy
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import FAMILIES
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import BertConfig, BertLMHeadModel, PreTrainedTokenizerFast

import effedu.patch
import effedu.report
from effedu.__main__ import _out_of_memory, _written_at_once, main
from effedu.bench import Comparison
from effedu.linears import convert, int8, nbytes
from effedu.lm import LanguageModel, heldout_text, load_lm
from effedu.patch import block, patched, quantized
from effedu.report import (
    CONFIGURATIONS,
    PARTS,
    Configuration,
    Report,
    Result,
    _shared_copy,
    _ThroughCache,
    measure,
)
from effedu.report_page import page

TEXT = "the rest of the text is the plain one and costs more bytes too\n" * 40
SMALL = ["gpt_neox", "gpt2", "llama"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small model of each family, with a byte-level tokenizer of the models' 61 tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=61, initial_alphabet=sorted(set(TEXT) - set(" \n")), show_progress=False
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    found = {}
    for family in SMALL:
        torch.manual_seed(0)
        folder = tmp_path_factory.mktemp(family)
        FAMILIES[family]().eval().save_pretrained(folder)
        PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
        found[family] = folder
    return found


@pytest.fixture
def neox(folders: dict[str, Path]) -> LanguageModel:
    return load_lm(folders["gpt_neox"])


@pytest.fixture
def text_file(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


# --- What is measured -----------------------------------------------------------------------------


def test_memory_and_quality_are_those_of_the_patched_model(neox: LanguageModel) -> None:
    found = measure(neox, TEXT, length=320, rounds=3, windows=1)
    dense = found.results["dense"]
    assert dense.weights == nbytes(neox.model)
    assert dense.agreement == 1
    assert dense.kv_cache == 2 * 2 * 32 * (320 - 64) * 4  # keys and values, layers, width, bytes
    assert found.results["quantized(4)"].kv_cache < dense.kv_cache / 3

    ids = neox.tokenizer(TEXT)["input_ids"][:320]
    text = neox.tokenizer.decode(ids)
    assert dense.bits_per_byte == neox.bits_per_byte(text, length=320)
    with patched(neox.model, block(128)):
        assert found.results["block(128)"].bits_per_byte == pytest.approx(
            neox.bits_per_byte(text, length=320)
        )
    smaller = copy.deepcopy(neox)
    convert(smaller.model, int8())
    assert found.results["int8()"].weights == nbytes(smaller.model)
    assert found.results["int8()"].bits_per_byte == pytest.approx(
        smaller.bits_per_byte(text, length=320), rel=1e-4
    )


def test_reading_in_chunks_is_reading_at_once(neox: LanguageModel) -> None:
    """Without anything to lose in the cache; with a coarse one it must show."""
    plain = neox.bits_per_byte(TEXT, length=200)
    chunks = _ThroughCache(neox.name, neox.model, neox.tokenizer)
    assert chunks.bits_per_byte(TEXT, length=200) == pytest.approx(plain, rel=1e-5)
    with patched(neox.model, cache=quantized(2)):
        assert neox.bits_per_byte(TEXT, length=200) == pytest.approx(plain, rel=1e-5)
        assert abs(chunks.bits_per_byte(TEXT, length=200) / plain - 1) > 1e-3


def test_the_model_is_left_as_it_was(neox: LanguageModel) -> None:
    modules = [(name, id(module)) for name, module in neox.model.named_modules()]
    implementation = neox.model.config._attn_implementation
    measure(neox, TEXT, length=128, rounds=3)
    assert [(name, id(module)) for name, module in neox.model.named_modules()] == modules
    assert neox.model.config._attn_implementation == implementation
    assert not neox.model._forward_pre_hooks


def test_a_shared_copy_shares_numbers_and_nothing_else(neox: LanguageModel) -> None:
    other = _shared_copy(neox.model)
    ours, theirs = (dict(m.named_parameters()) for m in (neox.model, other))
    assert all(ours[name] is theirs[name] for name in ours)
    assert other.config is not neox.model.config
    convert(other, int8())
    assert type(neox.model.get_submodule("gpt_neox.layers.0.mlp.dense_h_to_4h")) is torch.nn.Linear


def test_parts_are_what_their_names_say() -> None:
    names = {name: getattr(effedu.patch, name.split("(")[0]) for name in PARTS}
    for name, part in PARTS.items():
        assert part == eval(name, {name.split("(")[0]: names[name]})


@pytest.mark.parametrize("configuration", CONFIGURATIONS, ids=lambda c: c.name)
def test_the_recommended_code_runs(configuration: Configuration) -> None:
    exec(configuration.code, {"lm": load_lm()})


def test_code_of_a_configuration() -> None:
    assert Configuration().code.startswith("# nothing")
    assert "convert" not in Configuration("block(128)").code
    assert "patched(lm.model, cache=quantized(4))" in Configuration(cache="quantized(4)").code


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"windows": 0}, "windows must be an integer of at least 1, got 0"),
        ({"new_tokens": 0}, "new_tokens must be an integer of at least 1, got 0"),
        ({"rounds": 2}, "rounds must be an integer of at least 3, got 2"),
        ({"rounds": 15}, "rounds must be at most 14, got 15"),
        ({"loss": -0.1}, "loss must be from 0 to 1, such as 0.01 for 1 %, got -0.1"),
        ({"length": 127}, "length must be an integer of at least 128, got 127"),
        ({"length": 513}, "length must be at most the model's 512 positions, got 513"),
        ({"configurations": CONFIGURATIONS[1:]}, "configurations must begin with the dense"),
        ({"configurations": []}, "configurations must begin with the dense"),
        ({"text": "the"}, "text must hold at least 128 tokens, got"),
        ({"text": ""}, "text must hold at least 128 tokens, got 0: ''"),
        ({"text": TEXT[:150], "length": 500}, "text must hold at least 500 tokens, got"),
    ],
)
@pytest.mark.unchecked_shapes
def test_bad_arguments(neox: LanguageModel, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        measure(**{"lm": neox, "text": TEXT, **arguments})


# --- What follows from it -------------------------------------------------------------------------


def report(**changed: Any) -> Report:
    """Three configurations: blocks are fastest and lose much, 8 bits are faster and smaller."""
    seconds = {"dense": (1.0, 0.01), "block(128)": (0.5, 0.01), "int8()": (0.8, 0.005)}
    times = {
        f"{what} {name}": (pair[i], 1.1 * pair[i], 0.9 * pair[i])
        for name, pair in seconds.items()
        for i, what in enumerate(("read", "write"))
    }
    values = {
        "model": "some model",
        "description": "a description",
        "length": 100,
        "new_tokens": 10,
        "scored_tokens": 200,
        "loss": 0.01,
        "times": Comparison(times, "read dense"),
        "results": {
            "dense": Result(Configuration(), 1000, 500, 2.0, 1.0),
            "block(128)": Result(Configuration("block(128)"), 1000, 500, 2.1, 0.8),
            "int8()": Result(Configuration(linear="int8()"), 300, 500, 2.01, 0.9),
        },
        "skipped": {},
        "machine": {"processor": "one"},
        **changed,
    }
    return Report(**values)


def test_the_rule() -> None:
    found = report()
    assert found.ratio("read", "block(128)") == pytest.approx(0.5)
    assert found.ratio("write", "int8()") == pytest.approx(0.5)
    assert found.job.ratio("int8()") == pytest.approx((0.8 + 0.05) / 1.1)
    assert found.good_enough == ["dense", "int8()"]
    assert (found.fastest, found.smallest) == ("int8()", "int8()")
    assert report(loss=0.06).fastest == "block(128)"  # 0.6 s against 0.85 s
    assert report(loss=0.001).fastest == report(loss=0.001).smallest == "dense"


def test_a_gain_within_the_noise_is_none() -> None:
    times = dict(report().times.times)
    times["read int8()"] = (0.8, 2.0, 0.2)
    times["write int8()"] = (0.005, 0.05, 0.001)
    assert report(times=Comparison(times, "read dense")).fastest == "dense"


# --- The page -------------------------------------------------------------------------------------


class Tags(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_text_enters_the_page_as_text() -> None:
    evil = "</pre><script>alert(1)</script><img src=x onerror=alert(1)>&amp;"
    html = page(
        report(
            model=evil,
            description=evil,
            prompt=evil,
            samples={"dense": evil, evil: evil},
            skipped={evil: evil},
            machine={"processor": evil},
        )
    )
    tags = Tags(html)
    assert not {"script", "img", "link", "iframe", "object"} & {tag for tag, _ in tags.found}
    assert not [name for _, attributes in tags.found for name in attributes if name[:2] == "on"]
    assert "".join(tags.words).count(evil) == 10  # twice as the title
    assert "http:" not in re.sub(r'xmlns(:xlink)?="[^"]*"', "", html)
    assert "https:" not in html


def test_the_page_says_what_was_found() -> None:
    words = " ".join(Tags(page(report())).words)
    assert "int8() does the job in 0.77 of the time" in words
    assert "0.53 of the memory and +0.50 % bits per byte" in words
    assert "convert(lm.model, int8())" in words
    assert "It is the best for memory, too." in words
    assert "at most 1 % more bits per byte" in words
    alone = " ".join(Tags(page(report(loss=0.001))).words)
    assert "nothing that was tried beats the model as it is" in alone
    assert "Not possible" not in alone
    assert "block(128): why" in " ".join(Tags(page(report(skipped={"a": "block(128): why"}))).words)


def test_large_numbers_have_their_unit() -> None:
    results = dict(report().results)
    results["dense"] = Result(Configuration(), 41_100_000_000, 2_200_000_000, 2.0, 1.0)
    words = " ".join(Tags(page(report(results=results))).words)
    assert "41.1 GB" in words
    assert "memory (GB)" in words


# --- The command ----------------------------------------------------------------------------------


@pytest.mark.parametrize("family", SMALL)
def test_the_command_on_a_saved_model(
    family: str,
    folders: dict[str, Path],
    text_file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "page.html"
    arguments = ["report", str(folders[family]), "--text", str(text_file), "--out", str(out)]
    assert main([*arguments, "--length", "200", "--rounds", "3", "--new", "5"]) == 0
    said = capsys.readouterr()
    assert "for time" in said.out
    assert "%|" in said.err  # the bar
    assert sorted(p.name for p in tmp_path.iterdir()) == ["page.html", "text.txt"]
    words = " ".join(Tags(out.read_text("utf-8")).words)
    assert "block(128) + int8()" in words
    # 64 weights a group do not divide 32 inputs: said, not hidden.
    assert re.search(r"Not possible.*int4\(64\).*can't be replaced", words, flags=re.DOTALL)


def test_the_embedded_model_and_its_text_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[Any] = []

    def measured(lm: LanguageModel, text: str, **options: Any) -> Report:
        seen.extend([lm.name, text, options])
        return report()

    monkeypatch.setattr(effedu.report, "measure", measured)
    monkeypatch.chdir(tmp_path)
    assert main(["report", "--loss", "2"]) == 0
    assert seen[:2] == ["embedded", heldout_text()]
    assert seen[2]["loss"] == 0.02
    assert (tmp_path / "report.html").read_text("utf-8") == page(report())
    assert capsys.readouterr().out == "report.html: for time int8(), for memory int8()\n"


def fails(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    """One line on standard error, status 2, and no file left behind."""
    before = sorted(folder.rglob("*"))
    assert main(["report", "--quiet", *arguments]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert message in said.err
    assert sorted(folder.rglob("*")) == before


def test_bad_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    fails(["no/such/name"], "name must be a folder that exists or a hub name", capsys, tmp_path)
    fails(["somebody/nothing"], "cannot load 'somebody/nothing'", capsys, tmp_path)
    fails(["--device", "abacus"], "device must be one PyTorch can use here", capsys, tmp_path)
    (tmp_path / "empty").mkdir()
    fails(["empty"], "cannot load 'empty' as a causal language model", capsys, tmp_path)


def test_a_model_that_looks_ahead(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    folder = tmp_path / "bert"
    BertLMHeadModel(BertConfig(vocab_size=61, **sizes)).save_pretrained(folder)
    PreTrainedTokenizerFast.from_pretrained(folders["gpt2"]).save_pretrained(folder)
    fails([str(folder), "--out", str(tmp_path / "x.html")], "is not a causal", capsys, tmp_path)


def test_bad_texts(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = {
        "empty.txt": (b" \n", "is empty"),
        "latin.txt": ("für".encode("latin-1"), "is not UTF-8 at byte 1"),
        "short.txt": (b"the text", "text must hold at least 128 tokens"),
    }
    for name, (content, message) in texts.items():
        (tmp_path / name).write_bytes(content)
        options = ["--text", str(tmp_path / name), "--out", str(tmp_path / "x.html")]
        fails([str(folders["gpt2"]), *options], message, capsys, tmp_path)
    missing = ["--text", str(tmp_path / "missing.txt")]
    fails(missing, "missing.txt can't be read: No such file or directory", capsys, tmp_path)
    fails(["--text", str(tmp_path)], "can't be read: Is a directory", capsys, tmp_path)


def test_bad_outputs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fails(["--out", str(tmp_path)], "is a folder; name a file in it", capsys, tmp_path)
    nowhere = str(tmp_path / "no" / "page.html")
    fails(["--out", nowhere], "can't be written: No such file or directory", capsys, tmp_path)


def test_options_out_of_range(
    folders: dict[str, Path], text_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = text_file.parent
    common = [str(folders["gpt2"]), "--text", str(text_file), "--out", str(folder / "x.html")]
    fails([*common, "--length", "9"], "length must be an integer of at least 128", capsys, folder)
    fails([*common, "--loss", "200"], "loss must be from 0 to 1", capsys, folder)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"),
    ],
)
def test_out_of_memory(
    error: Exception,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def measured(*args: Any, **options: Any) -> Report:
        raise RuntimeError("function 'read dense' raised") from error

    monkeypatch.setattr(effedu.report, "measure", measured)
    monkeypatch.chdir(tmp_path)
    fails([], "out of memory: try a smaller --length", capsys, tmp_path)
    assert _out_of_memory(ValueError("something else")) is None


def test_an_interrupt_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measured(*args: Any, **options: Any) -> Report:
        raise KeyboardInterrupt

    monkeypatch.setattr(effedu.report, "measure", measured)
    monkeypatch.chdir(tmp_path)
    assert main(["report"]) == 130
    assert capsys.readouterr().err == "effedu: interrupted\n"
    assert list(tmp_path.iterdir()) == []


def _fail_half_way(file: Any) -> None:
    file.write("new")
    raise OSError("half")


def test_a_file_keeps_its_old_content_until_the_new_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text("old")
    with pytest.raises(OSError, match="half"), _written_at_once(path) as file:
        _fail_half_way(file)
    assert path.read_text() == "old"
    with _written_at_once(path) as file:
        file.write("new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]
