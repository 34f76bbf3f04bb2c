"""Packed batches give what padded passes give, one after the other: values, gradients, and every kind of emptiness."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from frameloom.fuse import Tokens, create_model
from frameloom.fuse.layers import products
from frameloom.fuse.layers.packed import Sequences, add_positions, join, pack, real_rows
from frameloom.fuse.layers.products import Linear, linear
from frameloom.fuse.layers.transformer import FusionTransformer
from frameloom.fuse.objectives.nce import compared_samples
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

NAMES = ("text", "video", "audio")
CONTEXTS = ["+".join(names) for size in (1, 2, 3) for names in combinations(NAMES, size)]
DIM = 8


def plain_pass(transformer: FusionTransformer, parts: dict[str, Tokens]) -> dict[str, torch.Tensor]:
    """One combination as a padded batch, from the equations: (B, D) means by modality, or the class token alone."""
    if transformer.cls_token is not None:
        cls = transformer.cls_token.expand(len(next(iter(parts.values())).mask), -1, -1)
        parts = {"cls": Tokens(cls, torch.ones(cls.shape[:2], dtype=torch.bool)), **parts}
    x = torch.cat([part.values for part in parts.values()], dim=1)
    mask = torch.cat([part.mask for part in parts.values()], dim=1)
    for block in transformer.blocks:
        heads = block.attn.heads
        q, k, v = (
            each.unflatten(-1, (heads, -1)).transpose(1, 2) for each in block.attn.qkv(block.norm1(x)).chunk(3, -1)
        )
        scores = (q @ k.transpose(2, 3) / (DIM / heads) ** 0.5).masked_fill(~mask[:, None, None], -torch.inf)
        x = x + block.attn.proj((scores.softmax(dim=3) @ v).transpose(1, 2).flatten(2))
        x = x + block.mlp.fc2(functional.gelu(block.mlp.fc1(block.norm2(x))))
    outputs = dict(zip(parts, x.split([part.mask.shape[1] for part in parts.values()], dim=1), strict=True))
    if "cls" in outputs:
        return {"cls": outputs["cls"][:, 0]}
    return {
        name: (outputs[name] * part.mask[..., None]).sum(dim=1) / part.mask.sum(dim=1, keepdim=True)
        for name, part in parts.items()
    }


def stood_in(tokens: Tokens, stand_in: torch.Tensor) -> Tokens:
    first = ~tokens.mask.any(dim=1)[:, None] & (torch.arange(tokens.mask.shape[1]) == 0)
    return Tokens(torch.where(first[..., None], stand_in, tokens.values), tokens.mask | first)


def transformer_of(depth: int, *, cls_token: bool = False) -> FusionTransformer:
    torch.manual_seed(depth)
    made = FusionTransformer(DIM, depth=depth, heads=2, cls_token=cls_token).double()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return made


def batch_of(masks: dict[str, torch.Tensor]) -> dict[str, Tokens]:
    generator = torch.Generator().manual_seed(7)
    return {
        name: Tokens(torch.randn(*mask.shape, DIM, generator=generator, dtype=torch.float64).requires_grad_(), mask)
        for name, mask in masks.items()
    }


def packed_passes(transformer, batch, contexts, samples=None):
    tokens = {name: pack(real_rows(*each), each.mask, transformer.masking_token) for name, each in batch.items()}
    joined = join(tokens, contexts, samples=samples, class_token=transformer.cls_token)
    return joined.by_part(transformer(joined.values, joined.sequences, joined.pool))


def gradients(outputs, transformer, batch):
    """Of a weighted sum of everything, with respect to weights and tokens."""
    wanted = [p for p in transformer.parameters() if p.requires_grad] + [each.values for each in batch.values()]
    weights = torch.linspace(-1, 1, DIM, dtype=torch.float64)
    total = sum(((output * weights) ** 2).sum() for output in outputs)
    return [
        torch.zeros_like(parameter) if gradient is None else gradient
        for parameter, gradient in zip(wanted, torch.autograd.grad(total, wanted, allow_unused=True), strict=True)
    ]


def assert_same(packed, plain) -> None:
    for ours, theirs in zip(packed, plain, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=1e-9)


def compare(transformer, masks, contexts=CONTEXTS) -> None:
    batch = batch_of(masks)
    packed = packed_passes(transformer, batch, contexts)
    repaired = {name: stood_in(each, transformer.masking_token) for name, each in batch.items()}
    plain = [
        (part, context, output)
        for context in contexts
        for part, output in plain_pass(transformer, {n: repaired[n] for n in context.split("+")}).items()
    ]
    ours, theirs = [packed[part][context] for part, context, _ in plain], [output for _, _, output in plain]
    assert sum(map(len, packed.values())) == len(plain)
    assert_same(ours, theirs)
    assert_same(gradients(ours, transformer, batch), gradients(theirs, transformer, batch))


@st.composite
def random_masks(draw):
    num_samples = draw(st.integers(1, 4))
    row = {name: draw(st.integers(1, 4)) for name in NAMES}
    return {
        name: torch.tensor(
            draw(st.lists(st.lists(st.booleans(), min_size=n, max_size=n), min_size=num_samples, max_size=num_samples))
        )
        for name, n in row.items()
    }


class TestPackedEqualsPadded:
    @settings(max_examples=25, deadline=None)
    @given(masks=random_masks(), depth=st.integers(0, 2), cls_token=st.booleans())
    def test_values_and_gradients(self, masks, depth, cls_token) -> None:
        """Masks of any pattern, not only lengths; float64, so that nothing hides in rounding."""
        compare(transformer_of(max(depth, 1) if cls_token else depth, cls_token=cls_token), masks)

    @pytest.mark.parametrize("empty", [NAMES, NAMES[:1], NAMES[1:]], ids=len)
    def test_wholly_empty_modalities(self, empty) -> None:
        compare(transformer_of(2), {name: torch.full((3, 4), name not in empty) for name in NAMES})

    def test_one_token_in_all(self) -> None:
        compare(transformer_of(1), {"text": torch.ones(1, 1, dtype=torch.bool)}, ["text"])

    def test_more_than_three_modalities(self) -> None:
        names = ("text", "video", "audio", "speech", "motion")
        masks = {name: torch.arange(5) < torch.tensor([[number], [0], [3]]) for number, name in enumerate(names)}
        compare(transformer_of(1), masks, ["+".join(names), "text+motion", "speech", "video+audio+speech"])

    def test_gradients_by_finite_differences(self) -> None:
        transformer, batch = transformer_of(2), batch_of({"text": torch.tensor([[1, 0, 1], [0, 0, 0]]).bool()})
        (tokens,) = batch.values()

        def pooled(values, masking_token):
            packed = pack(real_rows(values, tokens.mask), tokens.mask, masking_token)
            joined = join({"text": packed}, ["text"])
            return transformer(joined.values, joined.sequences, joined.pool)

        assert torch.autograd.gradcheck(pooled, (tokens.values, transformer.masking_token))

    def test_chosen_samples_alone(self) -> None:
        transformer = transformer_of(2)
        batch = batch_of({name: torch.rand(5, 4, generator=torch.Generator().manual_seed(3)) > 0.4 for name in NAMES})
        samples = {"text": torch.tensor([0, 3]), "text+video": torch.tensor([], dtype=torch.long)}
        whole, chosen = (
            packed_passes(transformer, batch, CONTEXTS),
            packed_passes(transformer, batch, CONTEXTS, samples),
        )
        for part, by_context in chosen.items():
            for context, pooled in by_context.items():
                expected = whole[part][context]
                assert_same([pooled], [expected[samples[context]] if context in samples else expected])


class TestPacking:
    def test_padding_is_not_there(self) -> None:
        """Whatever padding holds, NaN even: no real token is computed from it, and it has no gradient."""
        batch = batch_of({"text": torch.tensor([[True, False, True], [False, False, False]])})
        spoilt = batch["text"].values.detach().masked_fill(~batch["text"].mask[..., None], torch.nan).requires_grad_()
        packed = pack(real_rows(spoilt, batch["text"].mask), batch["text"].mask, torch.zeros(DIM, dtype=torch.float64))
        assert packed.values.shape == (3, DIM)
        assert packed.values.isfinite().all()
        packed.values.sum().backward()
        assert torch.equal(spoilt.grad != 0, batch["text"].mask[..., None].expand_as(spoilt))

    def test_rows_are_shared_between_contexts(self) -> None:
        masks = {name: torch.arange(4) < torch.tensor([[2], [0], [3]]) for name in NAMES}
        transformer = transformer_of(1)
        tokens = {
            n: pack(real_rows(*each), each.mask, transformer.masking_token) for n, each in batch_of(masks).items()
        }
        joined = join(tokens, CONTEXTS)
        assert len(joined.values) == 3 * (5 + 1)
        assert len(joined.sequences.source) == (3 * 1 + 3 * 2 + 3) * (2 + 1 + 3)
        assert joined.sequences.grid.shape == (len(CONTEXTS) * 3, 9)

    def test_positions_follow_places(self) -> None:
        mask = torch.tensor([[False, True, False, True], [False, False, False, False]])
        packed = add_positions(pack(torch.zeros(2, 1), mask, torch.zeros(1)), torch.arange(10.0)[:, None])
        assert packed.values.flatten().tolist() == [1, 3, 0]

    def test_a_padded_batch_is_a_layout_too(self) -> None:
        mask = torch.tensor([[True, False, True]])
        block, x = transformer_of(1).blocks[0], torch.randn(3, DIM, dtype=torch.float64)
        alone = block(x[[0, 2]], Sequences.padded(torch.ones(1, 2)))
        assert_same([block(x, Sequences.padded(mask))[[0, 2]]], [alone])


class TestWhatTheLossLooksAt:
    def test_samples_of_terms(self) -> None:
        nonempty = {"text": torch.tensor([1, 0, 1, 0]), "video": torch.ones(4), "audio": torch.tensor([1, 1, 0, 0])}
        terms = [("text", "video"), ("video", "audio"), ("text", "video+audio")]
        found = compared_samples(terms, nonempty, embedded=["text", "video", "audio", "video+audio"])
        assert {name: rows.tolist() for name, rows in found.items()} == {
            "text": [0, 2],
            "video": [0, 1, 2],
            "audio": [0, 1],
            "video+audio": [0],
        }

    def test_a_term_without_its_embedding_counts_for_nothing(self) -> None:
        nonempty = {"text": torch.tensor([True, False]), "video": torch.tensor([True, True])}
        found = compared_samples([("text", "video"), ("video", "audio")], nonempty, embedded=["text", "video"])
        assert {name: rows.tolist() for name, rows in found.items()} == {"text": [0], "video": [0]}

    @pytest.mark.parametrize("lambdas", [{}, {"lambda_v_ta": 0.0, "lambda_ta": 0.0}])
    def test_leaving_samples_out_changes_neither_loss_nor_gradient(self, make_batch, lambdas) -> None:
        model = create_model("test_everything_at_once", **lambdas).double().train()
        given = make_batch({"text": (5, 0, 1, 4), "audio": (32, 20, 0, 16)})
        batch = {name: Tokens(each.values.double(), each.mask) for name, each in given.items()}
        found = []
        for keep_all in (False, True):
            model.zero_grad()
            if keep_all:
                original = model.embeddings
                model.embeddings = lambda batch, *, terms, original=original, **how: original(batch, **how)
            loss, _ = model.loss(batch)
            loss.backward()
            found.append([loss, *(p.grad for p in model.parameters() if p.grad is not None)])
        assert_same(*found)

    def test_rows_of_others_are_zero(self, make_batch) -> None:
        model = create_model("test_everything_at_once").eval()
        batch = make_batch({"text": (5, 0, 1, 4)})
        vectors, _ = model.embeddings(batch, terms=[("text", "video")])
        assert not vectors["text"][1].any()
        assert not vectors["video+audio"].any()
        whole = model.embeddings(batch).vectors["text"]
        torch.testing.assert_close(vectors["text"][[0, 2, 3]], whole[[0, 2, 3]])


class TestProducts:
    @pytest.fixture(autouse=True)
    def ask_for_every_product(self, monkeypatch) -> None:
        monkeypatch.setattr(products, "SMALLEST_PRODUCT", 1)

    def both(self, ours, theirs, *wanted) -> None:
        gradient = torch.randn_like(theirs)
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
        mine, plain = (torch.autograd.grad(y, wanted, gradient) for y in (ours, theirs))
        for one, other in zip(mine, plain, strict=True):
            torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)

    @pytest.mark.parametrize("bias", [True, False])
    @pytest.mark.parametrize("shape", [(7, 24), (2, 3, 24), (24,)])
    def test_linear(self, shape, bias) -> None:
        layer, x = Linear(24, 17, bias=bias), torch.randn(shape, requires_grad=True)
        self.both(layer(x), functional.linear(x, layer.weight, layer.bias), x, *layer.parameters())

    def test_it_is_oneDNN_that_answers(self) -> None:
        y = linear(torch.randn(4, 8), torch.randn(3, 8, requires_grad=True))
        assert "_Product" in str(y.grad_fn.next_functions if "View" in str(y.grad_fn) else y.grad_fn)

    def test_a_gradient_that_is_spread(self) -> None:
        x, weight = torch.randn(5, 8, requires_grad=True), torch.randn(3, 8, requires_grad=True)
        linear(x, weight).sum().backward()
        torch.testing.assert_close(weight.grad, x.detach().sum(dim=0).expand(3, 8))

    @pytest.mark.parametrize("empty", [(0, 8), (2, 0, 8)])
    def test_nothing_in_nothing_out(self, empty) -> None:
        weight = torch.randn(3, 8, requires_grad=True)
        linear(torch.randn(empty), weight).sum().backward()
        assert not weight.grad.any()

    def test_other_types_and_autocast_are_torchs_own(self) -> None:
        weight = torch.randn(3, 8)
        assert torch.equal(
            linear(torch.ones(2, 8).double(), weight.double()), torch.ones(2, 8).double() @ weight.double().T
        )
        with torch.autocast("cpu", torch.bfloat16):
            assert linear(torch.ones(2, 8), weight).dtype == torch.bfloat16

    def test_the_model_trains_the_same(self, make_batch) -> None:
        """The whole step through oneDNN against torch's own layers."""
        found = []
        for smallest in (1, 1 << 60):
            products.SMALLEST_PRODUCT = smallest
            torch.manual_seed(0)
            model = create_model("test_everything_at_once").train()
            loss, _ = model.loss(make_batch())
            loss.backward()
            found.append([loss, *(p.grad for p in model.parameters() if p.grad is not None)])
        for ours, theirs in zip(*found, strict=True):
            torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4)
