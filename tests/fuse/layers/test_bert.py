"""BERT: padding, texts without a token, several queries of one context, the order of attentions, tied weights."""

from __future__ import annotations

import pytest
import torch
from frameloom import ConfigError
from frameloom.fuse.layers import (
    Bert,
    BertAttention,
    BertLayer,
    BertSpec,
    MaskedWordHead,
    visible_before,
    visible_keys,
    without_counters,
)
from torch import nn

SPEC = BertSpec(vocabulary=31, width=16, depth=2, heads=2, hidden=24, max_positions=12, dropout=0.0)


@pytest.fixture
def bert() -> Bert:
    torch.manual_seed(0)
    return Bert(SPEC).eval()


def test_padding_does_not_matter(bert) -> None:
    ids = torch.tensor([[5, 6, 7, 0, 0], [5, 6, 7, 8, 9]])
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    together = bert(ids, mask)
    torch.testing.assert_close(together[0, :3], bert(ids[:1, :3], mask[:1, :3])[0])
    assert not torch.allclose(together[0, :3], together[1, :3])


def test_a_text_without_a_token_is_finite_and_does_not_depend_on_its_padding(bert) -> None:
    ids, mask = torch.zeros(1, 4, dtype=torch.long), torch.zeros(1, 4)
    short = bert(ids[:, :2], mask[:, :2])
    assert short.isfinite().all()
    torch.testing.assert_close(bert(ids, mask)[:, :2], short)


def test_a_decoder_does_not_see_what_comes_after(bert) -> None:
    ids = torch.tensor([[5, 6, 7, 8]])
    visible = visible_before(torch.ones(1, 4))
    whole = bert.encoder(bert.embeddings(ids), visible=visible)
    begun = bert.encoder(bert.embeddings(ids[:, :2]), visible=visible[..., :2, :2])
    torch.testing.assert_close(whole[:, :2], begun)


def test_projected_keys_serve_several_queries() -> None:
    attention = BertAttention(SPEC, context_width=7).eval()
    x, context, samples = torch.randn(3, 4, 16), torch.randn(2, 5, 7), torch.tensor([1, 0, 1])
    looked_at = attention.keys_values(context).rows(samples)
    torch.testing.assert_close(attention(x, looked_at), attention(x, context[samples]))


def test_weights_are_those_that_forward_uses() -> None:
    attention = BertAttention(SPEC).eval()
    x, mask = torch.randn(2, 5, 16), torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    weights = attention.weights(x, visible=visible_keys(mask))
    assert (weights[0, ..., 3:] == 0).all()
    values = attention.keys_values(x).values
    by_hand = attention.output((weights @ values).transpose(1, 2).flatten(2), x)
    torch.testing.assert_close(attention(x, visible=visible_keys(mask)), by_hand)


def test_the_order_of_attentions_matters_and_a_layer_without_context_is_an_ordinary_one() -> None:
    torch.manual_seed(1)
    layers = {order: BertLayer(SPEC.replaced(order=order), cross=True).eval() for order in ("self_cross", "cross_self")}
    layers["cross_self"].load_state_dict(layers["self_cross"].state_dict())
    x, context = torch.randn(2, 4, 16), torch.randn(2, 3, 16)
    first, second = (layer(x, context=context) for layer in layers.values())
    assert not torch.allclose(first, second)
    torch.testing.assert_close(*(layer(x) for layer in layers.values()))


def test_dropout_is_as_configured() -> None:
    x = torch.randn(2, 4, 16)
    steady = BertLayer(SPEC.replaced(attention_dropout=0.0)).train()
    assert torch.equal(steady(x), steady(x))
    for dropping in (SPEC, SPEC.replaced(attention_dropout=0.0, dropout=0.5)):
        layer = BertLayer(dropping).train()
        assert not torch.equal(layer(x), layer(x))
        assert torch.equal(layer.eval()(x), layer(x))


def test_the_head_shares_the_words_it_is_tied_to(bert) -> None:
    words = bert.embeddings.word_embeddings
    tied, free = MaskedWordHead(SPEC, tied_to=words), MaskedWordHead(SPEC, bias_of_decoder=False)
    assert tied.decoder.weight is words.weight
    assert tied.decoder.bias is tied.bias
    assert free.state_dict().keys() == tied.state_dict().keys() - {"decoder.bias"}
    nn.init.constant_(free.bias, 2.0)
    free.load_state_dict({**tied.state_dict(), "bias": free.bias.detach()}, strict=False)
    x = torch.randn(3, 16)
    torch.testing.assert_close(free(x), tied(x) + 2.0)


def test_looking_up_padding_teaches_it_nothing(bert) -> None:
    bert(torch.tensor([[3, 0]]), torch.ones(1, 2)).sum().backward()
    assert not bert.embeddings.word_embeddings.weight.grad[0].any()


def test_integer_buffers_are_no_weights(bert) -> None:
    weights = {**bert.state_dict(), "embeddings.position_ids": torch.arange(12), "position_ids": torch.arange(12)}
    assert without_counters(weights).keys() == bert.state_dict().keys()


def test_heads_must_share_the_width() -> None:
    with pytest.raises(ConfigError, match="width 16 cannot be shared by 3 heads"):
        SPEC.replaced(heads=3)
