"""``python -m effedu report MODEL``: what makes a language model cheaper, as a page.

An error is one line on standard error and exit status 2, and no file is left half-written.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import torch


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns its exit status."""
    options = _parser().parse_args(arguments)
    try:
        _report(options)
    except KeyboardInterrupt:
        return _fail("interrupted", status=130)
    except (ValueError, OSError, RuntimeError, MemoryError) as error:
        return _fail(_out_of_memory(error) or str(error) or type(error).__name__)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m effedu", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    report = commands.add_parser(
        "report",
        help="what makes a language model cheaper, measured, as an HTML page",
        allow_abbrev=False,
    )
    report.add_argument(
        "model",
        nargs="?",
        metavar="MODEL",
        help="a folder or a hub name such as EleutherAI/pythia-70m; the embedded model if left out",
    )
    report.add_argument("--text", metavar="FILE", help="your text, UTF-8; default: held-out plays")
    report.add_argument("--out", metavar="FILE", default="report.html", help="default: report.html")
    report.add_argument(
        "--length", type=int, metavar="N", help="tokens read at once; default: 2048"
    )
    report.add_argument(
        "--new", type=int, default=100, metavar="N", help="tokens written after them; default: 100"
    )
    report.add_argument(
        "--loss",
        type=float,
        default=1.0,
        metavar="PERCENT",
        help="more bits per byte that you accept; default: 1",
    )
    report.add_argument("--rounds", type=int, default=7, metavar="N", help="of timing; default: 7")
    report.add_argument("--device", help="such as cuda; default: cpu")
    report.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser


def _report(options: argparse.Namespace) -> None:
    text = None if options.text is None else _read(Path(options.text))
    with _written_at_once(Path(options.out)) as file:
        # Not before the files are known to be right: these take seconds to import.
        from transformers.utils import logging

        from effedu.lm import heldout_text, load_lm
        from effedu.report import measure
        from effedu.report_page import page

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        found = measure(
            load_lm(options.model, device=options.device),
            heldout_text() if text is None else text,
            length=options.length,
            new_tokens=options.new,
            loss=options.loss / 100,
            rounds=options.rounds,
            progress=not options.quiet,
        )
        file.write(page(found))
    print(f"{options.out}: for time {found.fastest}, for memory {found.smallest}")


def _read(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"text file {path} is not UTF-8 at byte {error.start}") from None
    except OSError as error:
        raise ValueError(f"text file {path} can't be read: {error.strerror}") from None
    if not text.strip():
        raise ValueError(f"text file {path} is empty")
    return text


@contextmanager
def _written_at_once(path: Path) -> Iterator[TextIO]:
    """A file that takes its name when it is complete; after an error there is none.

    It is begun at once, so that a folder that can't be written to costs nobody a measurement.
    """
    if path.is_dir():
        raise ValueError(f"output {path} is a folder; name a file in it")
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        file = part.open("x", encoding="utf-8")
    except OSError as error:
        raise ValueError(f"output {path} can't be written: {error.strerror}") from None
    try:
        with file:
            yield file
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _out_of_memory(error: BaseException | None) -> str | None:
    """A sentence about memory, if lack of it is what lies behind an error."""
    while error is not None:
        text = str(error).lower()
        if isinstance(error, MemoryError | torch.OutOfMemoryError) or any(
            words in text for words in ("out of memory", "not enough memory", "can't allocate")
        ):
            return "out of memory: try a smaller --length, a smaller model or another --device"
        error = error.__cause__
    return None


def _fail(message: str, status: int = 2) -> int:
    print(f"effedu: {' '.join(message.split())}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
