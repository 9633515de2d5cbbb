"""What every test shares. It imports nothing of effedu: the shape checks have to come first."""

from __future__ import annotations

import os

os.environ.setdefault("MPLBACKEND", "agg")  # before anything imports matplotlib: no window opens
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # what the tests need is in the tree

from collections.abc import Iterator

import hypothesis
import jaxtyping
import pytest
import torch

# Two cores, shared: time says nothing about whether a property holds. And a failure that shows on
# one machine has to show on the next one, so examples are drawn alike everywhere.
hypothesis.settings.register_profile(
    "book",
    deadline=None,
    derandomize=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("book")

# Tiny tensors: handing work to a second thread takes longer than the work.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test draws the same random numbers, in whatever order the tests run."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def shape_checks(request: pytest.FixtureRequest) -> Iterator[None]:
    """Tests of bad input switch jaxtyping off: they are about the errors that users see."""
    off = request.node.get_closest_marker("unchecked_shapes") is not None
    jaxtyping.config.update("jaxtyping_disable", off)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a CUDA device where there is none."""
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="no CUDA device here")
    for item in items:
        if item.get_closest_marker("cuda"):
            item.add_marker(skip)
