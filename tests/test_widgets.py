"""What the widgets share in Python, and AttentionMap: its state, its errors, its fallback."""

from __future__ import annotations

import json
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from effedu.attention import attention
from effedu.widgets import AttentionMap, embed
from effedu.widgets._base import STATE_MIME, VIEW_MIME, Widget, _slim, compose

TOKENS = ["to", " be", ",", " or", "\n"]


def arrays(layers=2, heads=3, length=5, head_dim=4, seed=0):
    return np.random.default_rng(seed).normal(size=(2, layers, heads, length, head_dim))


def test_stable_repr_and_plain_text():
    widget = AttentionMap(TOKENS, *arrays(), layer=1, head=2)
    assert repr(widget) == "AttentionMap(5 tokens, layer 1, head 2)"
    data, _ = widget._repr_mimebundle_()
    assert data["text/plain"] == repr(widget)
    assert data[VIEW_MIME]["model_id"] == widget.model_id
    assert data["text/html"] == widget.fallback()


def test_the_base_has_no_fallback_of_its_own():
    with pytest.raises(NotImplementedError):
        Widget().fallback()


def test_an_unknown_widget_is_an_attribute_error():
    import effedu.widgets

    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = effedu.widgets.Nothing


@given(
    layers=st.integers(1, 3),
    heads=st.integers(1, 3),
    length=st.integers(1, 12),
    head_dim=st.integers(1, 9),
    seed=st.integers(0, 99),
    causal=st.booleans(),
    scaled=st.booleans(),
    data=st.data(),
)
@settings(max_examples=25, deadline=None)
def test_weights_are_those_of_attention(
    layers, heads, length, head_dim, seed, causal, scaled, data
):
    query, key = arrays(layers, heads, length, head_dim, seed).astype(np.float16)
    layer, head = data.draw(st.integers(0, layers - 1)), data.draw(st.integers(0, heads - 1))
    widget = AttentionMap(
        ["x"] * length,
        torch.tensor(query),
        key,
        layer=layer,
        head=head,
        causal=causal,
        scaled=scaled,
    )
    q, k = (torch.tensor(x[layer, head]).float()[None, None] for x in (query, key))
    _, expected = attention(
        q, k, k, causal=causal, scale=None if scaled else 1.0, return_weights=True
    )
    torch.testing.assert_close(widget.weights(), expected[0, 0])
    torch.testing.assert_close(widget.weights(layer, head), expected[0, 0])


def test_from_lm_picks_layers():
    query, key = (torch.tensor(x) for x in arrays(layers=4))
    lm = SimpleNamespace(attention_inputs=lambda text: (TOKENS, query, key))
    widget = AttentionMap.from_lm(lm, "to be, or\n", layers=(1, 3), layer=3, head=1)
    assert widget.layers == [1, 3]
    _, weights = attention(
        query[None, 3].half().float(),
        key[None, 3].half().float(),
        key[None, 3].half().float(),
        return_weights=True,
    )
    torch.testing.assert_close(widget.weights(), weights[0, 1])
    assert AttentionMap.from_lm(lm, "to be, or\n").layers == [0, 1, 2, 3]
    with pytest.raises(ValueError, match=r"layers must be one of 0 to 3, got 4"):
        AttentionMap.from_lm(lm, "to be", layers=(4,))
    with pytest.raises(ValueError, match=r"text must have at least one character, got ''"):
        AttentionMap.from_lm(lm, "")


def bad_inputs():
    q, k = arrays()
    complex_q = q.astype(complex)
    return [
        (TOKENS, q[0], k, {}, r"query must be \(layers, heads, length, head_dim\).*\(3, 5, 4\)"),
        (TOKENS, q, k[:, :, :0], {}, r"key must be .* not empty, got shape \(2, 3, 0, 4\)"),
        (TOKENS, q, k[:, :1], {}, r"key must have the query's shape \(2, 3, 5, 4\).*repeat"),
        (TOKENS[:4], q, k, {}, r"tokens must be as many as the length 5, got 4"),
        (TOKENS, complex_q, k, {}, r"query must hold real numbers, got dtype complex128"),
        (TOKENS, q, k * 1e6, {}, r"key must hold numbers of at most ±65504, got \d+"),
        (TOKENS, q * np.nan, k, {}, r"query must hold numbers of at most ±65504, got nan"),
        (TOKENS, q, k, {"layers": (1,)}, r"layers must name 2 different layers, got \[1\]"),
        (TOKENS, q, k, {"layers": (1, 1)}, r"layers must name 2 different layers, got \[1, 1\]"),
        (TOKENS, q, k, {"layer": 2}, r"layer must be one of \[0, 1\], got 2"),
        (TOKENS, q, k, {"head": 3}, r"head must be one of 0 to 2, got 3"),
        (TOKENS, q, k, {"token": 5}, r"token must be one of 0 to 4, got 5"),
        (TOKENS, q, k, {"view": "list"}, r"view must be one of \['map', 'table'\], got 'list'"),
    ]


@pytest.mark.parametrize(("tokens", "query", "key", "options", "message"), bad_inputs())
def test_errors(tokens, query, key, options, message):
    with pytest.raises(ValueError, match=message):
        AttentionMap(tokens, query, key, **options)


def test_state_can_be_read_and_set():
    widget = AttentionMap(TOKENS, *arrays())
    assert (widget.token, widget.causal, widget.scaled, widget.view) == (4, True, True, "map")
    widget.token, widget.causal, widget.view = 0, False, "table"
    assert widget.weights()[0].gt(0).all()
    with pytest.raises(ValueError, match="head must be one of 0 to 2, got -1"):
        widget.head = -1
    with pytest.raises(ValueError, match="head must be one of 0 to 2, got 3"):
        widget.weights(head=3)
    assert widget.head == 0


def test_fallback_is_text_and_a_picture():
    tokens = ["<img src=x onerror=alert(1)>", "</noscript>", "a", "b", '"']
    widget = AttentionMap(tokens, *arrays(), token=4)
    root = ElementTree.fromstring(widget.fallback())
    assert {el.tag for el in root.iter()} == {"figure", "svg", "path", "figcaption"}
    assert 'token “"” at 4 looks most at' in "".join(root.itertext())
    assert root.find("svg").get("aria-label")


def test_the_fallback_of_a_long_text_stays_small():
    query, key = arrays(1, 1, 500, 8)
    assert len(AttentionMap(["x"] * 500, query, key).fallback()) < 30_000


def test_embed_holds_state_views_and_fallback():
    first = AttentionMap(["</script>", "b", "c", "d", "e"], *arrays())
    html = embed(first, first)
    assert html.count(f'type="{VIEW_MIME}"') == html.count("<noscript>") == 2
    assert html.count("</script>") == 3
    state = json.loads(html.split(">", 1)[1].split("</script>")[0])["state"][first.model_id]
    assert state["state"]["tokens"][0] == "</script>"
    assert {buffer["path"][0] for buffer in state["buffers"]} == {"query_bytes", "key_bytes"}
    assert STATE_MIME in html


def test_slim_drops_only_comments_and_indentation():
    source = (
        "/* head\n   more */\n  const a = 1; // kept: it shares its line\n  // gone\n\n  b();\n"
    )
    assert _slim(source) == "const a = 1; // kept: it shares its line\nb();"
    esm, _ = compose("attention_map")
    assert esm.count("export default") == 1
