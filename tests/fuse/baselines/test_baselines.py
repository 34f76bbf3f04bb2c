"""What is special to each of the systems that Everything at Once is compared with."""

from __future__ import annotations

import math

import pytest
import torch
from frameloom import ConfigError, InputError
from frameloom.fuse import Tokens, create_model, model_config
from frameloom.fuse.baselines.clusters import OnlineClusters, k_means
from frameloom.fuse.baselines.pooling import max_over_rows, unit_parts
from frameloom.fuse.objectives.nce import cosine_similarities, margin_softmax, norm_softmax
from frameloom.fuse.objectives.pairwise import (
    cluster_contrast,
    dot_products,
    margin_softmax_of_products,
    max_margin,
    mil_nce,
    negative_weights,
)
from helpers.models import tokens_of


def cut(batch: dict[str, Tokens], *names: str) -> dict[str, Tokens]:
    return {name: batch[name] for name in names}


class TestMILNCE:
    def test_it_is_the_formula(self) -> None:
        x = torch.randn(3, 6, dtype=torch.float64)  # 2 candidates for each of 3 clips
        expected = 0.0
        for i in range(3):
            own = x[i, 2 * i : 2 * i + 2].exp().sum()
            everything = x[i].exp().sum() + x[:, 2 * i : 2 * i + 2].exp().sum()  # the positives twice
            expected += (everything / own).log() / 3
        torch.testing.assert_close(mil_nce(x), expected)

    def test_absent_candidates_count_nowhere(self) -> None:
        x = torch.randn(3, 6, requires_grad=True)
        present = torch.tensor([True, False] * 3)
        loss = mil_nce(x, present=present)
        torch.testing.assert_close(loss, mil_nce(x[:, present]))
        loss.backward()
        assert x.grad.isfinite().all()
        assert not x.grad[:, ~present].any()

    def test_captions_must_be_shared_out(self) -> None:
        with pytest.raises(InputError, match="5 captions"):
            mil_nce(torch.zeros(3, 5))

    def test_the_model_takes_candidates(self, make_batch) -> None:
        model = create_model("test_mil_nce").eval()
        video = make_batch()["video"]
        text = tokens_of((5, 3, 1, 4, 2, 5, 0, 1), 12, seed=7)  # clip i has captions 2 i and 2 i + 1
        loss, terms = model.loss({"text": text, "video": video})
        vectors, _ = model.embeddings({"text": text, "video": video})
        x = vectors["video"] @ vectors["text"].T
        torch.testing.assert_close(loss, mil_nce(x, present=text.mask.any(dim=1)))
        assert terms.keys() == {"text|video"}

    def test_a_clip_with_no_candidate_is_left_out(self, make_batch) -> None:
        model = create_model("test_mil_nce").eval()
        video = make_batch()["video"]
        text = tokens_of((5, 3, 0, 0, 2, 5, 4, 1), 12, seed=7)
        rest = [0, 1, 4, 5, 6, 7]
        smaller = {
            "text": Tokens(*(part[rest] for part in text)),
            "video": Tokens(*(part[[0, 2, 3]] for part in video)),
        }
        torch.testing.assert_close(model.loss({"text": text, "video": video})[0], model.loss(smaller)[0])

    @pytest.mark.parametrize("num_captions", [2, 6])
    def test_other_numbers_of_captions_are_explained(self, make_batch, num_captions) -> None:
        batch = {"text": tokens_of((3,) * num_captions, 12, seed=0), "video": make_batch()["video"]}
        with pytest.raises(InputError, match=f"{num_captions} captions for 4 clips"):
            create_model("test_mil_nce").loss(batch)

    def test_official_weights_leave_the_backbone_aside(self) -> None:
        model = create_model("test_mil_nce")
        official = {f"module.{name}": value + 1 for name, value in model.to_official().items()}
        official["module.mixed_5c.conv_b0.conv1.weight"] = torch.zeros(3)
        official["module.text_module.word_embd.weight"] = torch.arange(24.0).reshape(2, 12)
        model.from_official(official)
        assert torch.equal(model.fc.weight, official["module.fc.weight"])
        assert torch.equal(model.padding_word, torch.arange(12.0))
        with pytest.raises(InputError, match="unexpected: classifier"):
            model.from_official({**official, "classifier": torch.zeros(1)})

    def test_published_padding_is_word_0(self, make_batch) -> None:
        model = create_model("test_mil_nce", padding="published", pad_words_to=6).eval()
        model.padding_word.fill_(3.0)
        words = make_batch({"text": (5, 3, 0, 4)})["text"]
        filled = torch.full((4, 6, 12), 3.0)
        for i, length in enumerate((5, 3, 0, 4)):
            filled[i, :length] = words.values[i, :length]
        layers = model.text_module
        expected = layers.fc2(layers.fc1(filled).relu().amax(dim=1))
        torch.testing.assert_close(model.embed("text", words), expected)


class TestHowTo100M:
    def test_max_margin_is_the_formula(self) -> None:
        x = torch.randn(4, 4, dtype=torch.float64)
        total = sum(
            max(0.0, 0.2 + x[i, j].item() - x[i, i].item()) + max(0.0, 0.2 + x[j, i].item() - x[i, i].item())
            for i in range(4)
            for j in range(4)
        )
        assert max_margin(x, margin=0.2).item() == pytest.approx(total / 16)

    def test_hard_negatives_weigh_as_much_as_all_others(self) -> None:
        weights = negative_weights(12, clips_per_video=3)
        assert weights[0, 1] == weights[0, 0] == 2.0
        assert weights[0, 3] == pytest.approx(2 / 3)
        assert weights[0, :3].sum() == pytest.approx(weights[0, 3:].sum().item())
        assert weights.mean().item() == pytest.approx(1.0)

    def test_one_video_has_hard_negatives_only(self) -> None:
        assert negative_weights(3, clips_per_video=3).unique().tolist() == [0.5]

    def test_blocks_must_be_whole(self, make_batch) -> None:
        model = create_model("test_howto100m", clips_per_video=3)
        with pytest.raises(InputError, match="4 clips does not hold 3 of each video"):
            model.loss(cut(make_batch(), "text", "video"))

    def test_blocks_stay_where_they_are_when_clips_are_left_out(self, make_batch) -> None:
        model = create_model("test_howto100m", clips_per_video=2).eval()
        batch = cut(make_batch({"text": (5, 0, 1, 4)}), "text", "video")
        vectors = model.embeddings(batch).vectors
        rows = [0, 2, 3]
        x = vectors["text"][rows] @ vectors["video"][rows].T
        weights = torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 1.0], [1.0, 1.0, 1.0]])
        torch.testing.assert_close(model.loss(batch)[0], max_margin(x, weights=weights))
        harder = create_model("test_howto100m", clips_per_video=2, hard_negative_rate=0.75).eval()
        harder.load_state_dict(model.state_dict())
        weights = torch.tensor([[1.5, 0.5, 0.5], [0.5, 1.5, 1.5], [0.5, 1.5, 1.5]])
        torch.testing.assert_close(harder.loss(batch)[0], max_margin(x, weights=weights))

    def test_embeddings_are_unit_vectors(self, make_batch) -> None:
        vectors, _ = create_model("test_howto100m").embeddings(cut(make_batch(), "text", "video"))
        for each in vectors.values():
            torch.testing.assert_close(each.norm(dim=1), torch.ones(4))

    def test_the_unused_normalisation_is_in_the_weights_and_not_trained(self) -> None:
        model = create_model("test_howto100m")
        assert "GU_text.cg.batch_norm.running_mean" in model.state_dict()
        assert not any(p.requires_grad for name, p in model.named_parameters() if "batch_norm" in name)

    def test_official_names_make_the_shape(self) -> None:
        other = create_model("howto100m", video_dim=8, text_dim=6, projection_dim=10, sentence_dim=4)
        config = {"video_dim": 8, "we_dim": 6, "embd_dim": 10, "sentence_dim": 4, "n_pair": 2}
        model = create_model("test_howto100m").from_official(other.to_official(), config)
        assert (model.config.sentence_dim, model.config.clips_per_video) == (4, 2)
        assert (model.config.padding, model.config.pad_words_to) == ("published", 20)
        with pytest.raises(ConfigError, match="embed_dim"):
            model.from_official(other.to_official(), {"embed_dim": 10})

    @pytest.mark.parametrize("options", [{"video_parts": [8, 8]}, {"hard_negative_rate": 2.0}, {"projection_dim": 0}])
    def test_options_that_cannot_be(self, options) -> None:
        with pytest.raises(ConfigError, match=next(iter(options))):
            model_config("test_howto100m", **options)


class TestPooling:
    def test_parts_are_normalised_each_for_itself(self) -> None:
        vector = torch.tensor([[3.0, 4.0, 0.0, 2.0]])
        torch.testing.assert_close(unit_parts(vector, (2, 2)), torch.tensor([[0.6, 0.8, 0.0, 1.0]]))
        torch.testing.assert_close(unit_parts(vector).norm(dim=1), torch.ones(1))

    def test_published_padding_takes_part(self) -> None:
        rows = Tokens(torch.tensor([[[-2.0], [5.0]]]), torch.tensor([[True, False]]))
        assert max_over_rows(rows).item() == -2.0
        assert max_over_rows(rows, padding="published").item() == 5.0


class TestAVLnet:
    def test_the_loss_is_the_sum_over_pairs(self, make_batch) -> None:
        model = create_model("test_avlnet").eval()
        batch = make_batch({"audio": (32, 20, 0, 16)})
        loss, terms = model.loss(batch)
        vectors, _ = model.embeddings(batch)
        assert list(terms) == ["text|video", "text|audio", "video|audio"]
        torch.testing.assert_close(loss, sum(terms.values()))
        rows = [0, 1, 3]
        expected = margin_softmax_of_products(vectors["video"][rows], vectors["audio"][rows])
        torch.testing.assert_close(terms["video|audio"], expected)

    def test_the_chunked_margin_softmax_is_the_same(self) -> None:
        x, y = torch.randn(2, 7, 5, dtype=torch.float64)
        whole = margin_softmax_of_products(x, y, margin=0.3)
        torch.testing.assert_close(margin_softmax_of_products(x, y, margin=0.3, chunk_rows=2), whole)

    def test_a_combination_is_the_sum(self, make_batch) -> None:
        model = create_model("test_avlnet").eval()
        batch = make_batch({"audio": (32, 20, 0, 16)})
        vectors, _ = model.embeddings(batch)
        together = model.encode(video=batch["video"], audio=batch["audio"])
        summed = vectors["video"] + vectors["audio"] * torch.tensor([1.0, 1.0, 0.0, 1.0])[:, None]
        torch.testing.assert_close(together, torch.nn.functional.normalize(summed, dim=1))

    def test_without_text_it_has_no_layers_of_text(self, make_batch) -> None:
        model = create_model("test_avlnet", modalities=["audio", "video"])
        assert model.modalities == ("video", "audio")
        assert not any("text" in name for name in model.state_dict())
        assert model.loss(cut(make_batch(), "video", "audio"))[1].keys() == {"video|audio"}
        with pytest.raises(InputError, match="video, audio"):
            model.encode(text=make_batch()["text"])

    @pytest.mark.parametrize("training", [True, False])
    def test_published_audio_averages_all_in_training_and_real_tokens_else(self, make_batch, training) -> None:
        model = create_model("test_avlnet").from_official(create_model("test_avlnet").to_official())
        assert model.config.audio_mean == "all_in_training"
        model.train(training)
        model.DAVEnet.eval()
        audio = make_batch({"audio": (32, 9, 3, 16)})["audio"]
        tokens = model.DAVEnet(audio.values)  # padding runs through the convolutions, one token for 4 frames
        num_used = (8, 8, 8, 8) if training else (8, 2, 1, 4)
        expected = torch.stack([tokens[i, :used].mean(dim=0) for i, used in enumerate(num_used)])
        torch.testing.assert_close(model.pooled("audio", audio), expected)

    def test_text_to_sum(self, make_batch) -> None:
        model = create_model("test_avlnet", objective="text_to_sum").eval()
        batch = make_batch()
        vectors, _ = model.embeddings(batch)
        expected = margin_softmax_of_products(vectors["text"], vectors["audio"] + vectors["video"])
        loss, terms = model.loss(batch)
        torch.testing.assert_close(loss, expected)
        assert terms.keys() == {"text|video+audio"}
        assert model.loss(cut(batch, "text", "video"))[0].item() == 0.0

    @pytest.mark.parametrize(
        ("official", "expected"),
        [({"tri_modal": False}, ("video", "audio")), ({"tri_modal": True}, ("text", "video", "audio"))],
    )
    def test_official_names_make_the_shape(self, official, expected) -> None:
        sizes = {"embd_dim": 16, "video_dim": 8, "we_dim": 6, "davenet_v2": False}
        made = model_config("avlnet", **create_model("test_avlnet").official_options({**sizes, **official}))
        assert (made.all_modalities(), made.projection_dim, made.video_dim, made.text_dim) == (expected, 16, 8, 6)
        assert made.audio_spec().widths == (128, 128, 256, 512, 1024)
        with pytest.raises(ConfigError, match="'embed_dim'"):
            create_model("test_mcn").official_options({"embed_dim": 16})

    @pytest.mark.parametrize(
        "options",
        [
            {"audio_mean": "all"},
            {"modalities": ["video"]},
            {"modalities": ["video", "smell"]},
            {"objective": "text_to_sum", "modalities": ["text", "video"]},
            {"audio_cnn_widths": [8, 8]},
        ],
    )
    def test_options_that_cannot_be(self, options) -> None:
        with pytest.raises(ConfigError, match=next(iter(options))):
            model_config("test_avlnet", **options)


class TestMCN:
    def test_the_terms_add_up(self, make_batch) -> None:
        model = create_model("test_mcn").train()
        loss, terms = model.loss(make_batch())
        pairs = sum(term for name, term in terms.items() if "|" in name)
        torch.testing.assert_close(loss, pairs + terms["clusters"] + 50 * terms["reconstruction"])

    def test_reconstruction_is_of_what_the_branch_pooled(self, make_batch) -> None:
        model = create_model("test_mcn").eval()
        batch = make_batch({"audio": (32, 20, 0, 16)})
        expected = 0.0
        heads = {"text": model.recon_t, "video": model.recon_v, "audio": model.recon_a}
        for name, head in heads.items():
            rows = [0, 1, 3] if name == "audio" else [0, 1, 2, 3]
            pooled = model.pooled(name, batch[name])
            error = (head(model.project(name, pooled)) - pooled).square().mean(dim=1)
            expected += error[rows].mean()
        torch.testing.assert_close(model.loss(batch)[1]["reconstruction"], expected.detach())

    def test_each_modality_is_contrasted_with_the_cluster_of_the_mean(self, make_batch) -> None:
        model = create_model("test_mcn").train()
        model.loss(make_batch())
        model.eval()
        batch = make_batch({"audio": (32, 20, 0, 16)}, seed=3)
        vectors = model.embeddings(batch).vectors
        weights = torch.tensor([1.0, 1.0, 0.0, 1.0])[:, None]
        joint = (vectors["text"] + vectors["video"] + weights * vectors["audio"]) / (2 + weights)
        centres = model.clusters.centroids
        labels = torch.nn.functional.cosine_similarity(joint[:, None], centres[None], dim=2).argmax(dim=1)
        expected = [cluster_contrast(vectors[name], centres, labels) for name in ("text", "video")]
        expected.append(cluster_contrast(vectors["audio"][[0, 1, 3]], centres, labels[[0, 1, 3]]))
        torch.testing.assert_close(model.loss(batch)[1]["clusters"], torch.stack(expected).mean().detach())

    def test_evaluation_mode_learns_nothing(self, make_batch) -> None:
        model = create_model("test_mcn").eval()
        _, terms = model.loss(make_batch())
        assert "clusters" not in terms
        assert not model.clusters.num_queued

    def test_aims_can_be_left_out(self, make_batch) -> None:
        model = create_model("test_mcn", cluster_weight=0.0, reconstruction_weight=0.0)
        assert model.state_dict().keys() == create_model("test_avlnet").state_dict().keys()
        assert all("|" in name for name in model.loss(make_batch())[1])

    def test_official_weights_keep_the_clusters(self, make_batch) -> None:
        model = create_model("test_mcn").train()
        model.loss(make_batch())
        centres = model.clusters.centroids.clone()
        model.from_official(create_model("test_mcn").to_official())
        assert torch.equal(model.clusters.centroids, centres)

    def test_training_goes_on_from_a_state_as_if_it_had_not_stopped(self, make_batch) -> None:
        first, second = create_model("test_mcn").train(), create_model("test_mcn").train()
        for seed in range(3):
            first.loss(make_batch(seed=seed))
        second.load_state_dict(first.state_dict())
        assert torch.equal(first.loss(make_batch(seed=9))[0], second.loss(make_batch(seed=9))[0])


class TestClusters:
    def test_k_means_finds_directions(self) -> None:
        generator = torch.Generator().manual_seed(0)
        directions = torch.eye(3, 8)
        noise = 0.05 * torch.randn(60, 8, generator=generator)
        rows = directions[torch.arange(60) % 3] * (1 + torch.rand(60, 1, generator=generator)) + noise
        found = torch.nn.functional.normalize(k_means(rows, rows[:3]), dim=1)
        torch.testing.assert_close(found, directions, atol=0.06, rtol=0)
        torch.testing.assert_close(k_means(rows, rows[:3]), torch.stack([rows[i::3].mean(dim=0) for i in range(3)]))

    def test_an_empty_cluster_keeps_its_centre(self) -> None:
        centres = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
        moved = k_means(torch.tensor([[2.0, 0.0], [4.0, 0.0]]), centres)
        torch.testing.assert_close(moved, torch.tensor([[3.0, 0.0], [-1.0, 0.0]]))

    def test_the_queue_keeps_the_last_samples_and_waits_for_enough(self) -> None:
        clusters = OnlineClusters(2, num_clusters=4, queue_rows=5, refit_every=3).train()
        rows = torch.arange(1.0, 17.0).reshape(8, 2)
        assert clusters(rows[:2]) is None
        assert clusters(rows[2:4]) is not None
        assert torch.equal(clusters.queue[:4], rows[[2, 3, 0, 1]])
        clusters(rows[4:8])
        assert torch.equal(clusters.queue, rows[[4, 5, 6, 7, 2]])

    def test_centres_are_fitted_when_it_is_time(self) -> None:
        clusters = OnlineClusters(3, num_clusters=2, queue_rows=6, refit_every=3).train()
        seen = []
        for step in range(7):
            clusters(torch.randn(4, 3, generator=torch.Generator().manual_seed(step)))
            seen.append(clusters.centroids.clone())
        changed = [step for step in range(1, 7) if not torch.equal(seen[step], seen[step - 1])]
        assert changed == [3, 6]

    def test_the_margin_is_taken_off_the_own_cluster(self) -> None:
        vectors, centres = torch.eye(2), torch.eye(2)
        loss = cluster_contrast(vectors, centres, torch.tensor([0, 1]), margin=0.25)
        assert loss.item() == pytest.approx(math.log(1 + math.exp(-0.75)))


def test_dot_products_stay_exact_under_mixed_precision() -> None:
    x, y = torch.randn(3, 4000), torch.randn(2, 4000)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = dot_products(x, y)
    assert torch.equal(mixed, x @ y.T)


@pytest.mark.parametrize("contrast", ["norm_softmax", "margin_softmax", "mil_nce", "max_margin"])
class TestEverythingAtOnce:
    """Trained with the objectives of the others, for comparison."""

    def test_a_step_lowers_the_loss(self, make_batch, contrast) -> None:
        torch.manual_seed(0)
        model = create_model("test_everything_at_once", contrast=contrast, margin=0.1)
        batch = make_batch(modalities=model.modalities)
        before, terms = model.loss(batch)
        before.backward()
        with torch.no_grad():
            for weight in model.parameters():
                if weight.grad is not None:
                    weight.sub_(weight.grad, alpha=0.01)
        assert len(terms) == 6
        assert model.loss(batch)[0] < before

    def test_the_objective_is_the_one_named(self, make_batch, contrast) -> None:
        model = create_model("test_everything_at_once", contrast=contrast, margin=0.1, temperature=0.5).eval()
        batch = make_batch(modalities=("text", "video"))
        vectors = model.embeddings(batch).vectors
        x = cosine_similarities(vectors["text"], vectors["video"])
        expected = {
            "norm_softmax": norm_softmax(x, temperature=0.5),
            "margin_softmax": margin_softmax(x, margin=0.1),
            "mil_nce": mil_nce(x / 0.5),
            "max_margin": max_margin(x, margin=0.1),
        }
        torch.testing.assert_close(model.loss(batch)[1]["text|video"], expected[contrast].detach())


@pytest.mark.parametrize("name", ["test_avlnet", "test_howto100m", "test_mcn", "test_mil_nce"])
def test_mixed_precision_trains(make_batch, name) -> None:
    model = create_model(name).train()
    batch = make_batch(modalities=model.modalities)
    exact, _ = model.loss(batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, _ = model(batch)
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
    torch.testing.assert_close(loss, exact, rtol=0.03, atol=0.03)
