"""The base of every fusion model: any subset of modalities in, unit vectors and a training loss out.

Legend: B batch, N tokens (rows of one modality), D width of a row, E width of an embedding.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float, Shaped
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from .._settings import Settings
from .._vocabulary import ConfigError, InputError

MODALITIES = ("text", "video", "audio")
"""The modalities of the published models, in the order in which their tokens are joined; further ones come after."""


class NonFiniteError(InputError):
    """Rows of a batch hold NaN or infinity.

    Attributes:
        modality: which.
        samples: the positions in the batch, from 0, of the samples concerned.
    """

    def __init__(self, modality: str, samples: Sequence[int]) -> None:
        self.modality = modality
        self.samples = tuple(samples)
        shown = ", ".join(map(str, self.samples[:5]))
        more = f" and {len(self.samples) - 5} more" if len(self.samples) > 5 else ""
        super().__init__(
            f"{modality} holds numbers that are not finite in sample {shown}{more} of the batch (counted from 0); "
            "extract those features again, or leave the samples out"
        )

    def __reduce__(self) -> tuple[type[NonFiniteError], tuple[str, tuple[int, ...]]]:
        """Pickle the fields: an exception is otherwise made again from its message alone."""
        return NonFiniteError, (self.modality, self.samples)


class Tokens(NamedTuple):
    """One modality of a batch, padded to a common length.

    Attributes:
        values: (B, N, D). Text: word vectors. Video: feature rows. Audio: log-mel frames, time before mel bands. What
            padding holds does not matter, be it NaN. Models of pixels take pictures and token ids, see `given_pixels`.
        mask: (B, N), nonzero where a row is real. A sample whose mask is all zero does not have this modality.
    """

    values: Shaped[Tensor, "B N *D"]
    mask: Shaped[Tensor, "B N"]

    @classmethod
    def of(cls, values: NDArray[Any], mask: NDArray[Any]) -> Tokens:
        """Arrays (B, N, D) and (B, N) as a model takes them; nothing is copied."""
        return cls(torch.from_numpy(values), torch.from_numpy(mask))


class Embeddings(NamedTuple):
    """A model's output for a batch.

    Attributes:
        vectors: (B, E) under "text", "video", "text+video", ...: every combination whose modalities were given.
        nonempty: (B,) bool under each modality given: whether the sample really has it.
    """

    vectors: dict[str, Tensor]
    nonempty: dict[str, Tensor]


class ModelConfig(Settings):
    """The base of every model's configuration: frozen, with values that JSON can hold.

    Raises ConfigError for an unknown option (the nearest is named) and for a value that cannot be.
    """

    def all_modalities(self) -> tuple[str, ...]:
        """The modalities that a model of this configuration embeds, in its order."""
        return MODALITIES


class FusionModel(nn.Module):
    """The base of the five models.

    Attributes:
        name: the registered name.
        config: the configuration that the model was built with.
        dim: width E of an embedding.
        modalities: the modalities that it takes, in the order in which it joins them.
    """

    config_type: ClassVar[type[ModelConfig]] = ModelConfig
    name: str
    config: ModelConfig
    dim: int
    modalities: tuple[str, ...] = MODALITIES
    paper: ClassVar[str] = ""
    """Where the model was published."""
    trains: ClassVar[bool] = True
    """Whether there is anything to train; False where the model only compares what frozen towers give."""
    scores: ClassVar[bool] = False
    """Whether it has a joint head that reads a text and a video together: `score`, which re-ranking asks."""
    joint_models: ClassVar[set[str]] = set()
    """The registered models that have one, but for those of tests."""
    takes_pixels: ClassVar[bool] = False
    """Whether a batch holds pictures and token ids (`given_pixels`), and not rows of features."""

    head_names: ClassVar[tuple[str, ...]] = ()
    """Beginnings of the names of weights of heads that a task adds or leaves out (`Recipe.head_rate`)."""
    extra_inputs: ClassVar[tuple[str, ...]] = ()
    """What `loss` reads of a batch besides its modalities, where it is there: tags of words, answers."""

    def encode(
        self,
        *,
        text: Tokens | None = None,
        video: Tokens | None = None,
        audio: Tokens | None = None,
        **more: Tokens | None,
    ) -> Float[Tensor, "B E"]:
        """Embed one combination of the model's modalities as unit vectors.

        Raises:
            InputError: no modality at all, one that the model does not take, or wrong shapes.
        """
        raise NotImplementedError

    def score(self, *, text: Tokens, video: Tokens) -> Float[Tensor, " B"]:  # noqa: ARG002
        """The joint head's logit that text i and video i belong together; higher is better.

        Args:
            text: of B samples, or one that goes with every video; token ids, or what `states` made of them.
            video: of B samples, or one that goes with every text; pictures, or what `states` made of them.

        Raises:
            ConfigError: a model without a joint head (`scores` is False).
            InputError: wrong shapes, or other numbers of texts and videos.
        """
        self.check_scores()
        raise NotImplementedError

    def check_scores(self) -> None:
        """Raises ConfigError for a model that cannot `score`: one without a joint head, or built without it."""
        if not self.scores:
            joint = ", ".join(sorted(self.joint_models)) or "none is registered"
            raise ConfigError(f"the model {self.name} has no joint head; models that re-rank: {joint}")

    def states(self, modality: str, tokens: Tokens) -> Tokens:  # noqa: ARG002
        """What `score` makes of one side alone, to be given to it in the place of the tokens, as often as wanted.

        A model that makes nothing of one side alone gives the tokens back.
        """
        return tokens

    def continue_from(self, weights: Mapping[str, Tensor]) -> list[str]:
        """Begin with a trained model of the same class; see `start_trained`."""
        return start_trained(self, weights, heads=self.head_names)

    def question_scores(self, batch: Mapping[str, Tokens]) -> Float[Tensor, "B A"]:  # noqa: ARG002
        """Scores of the answers to questions about clips; higher is better.

        Args:
            batch: "video", and "text", open-ended questions (B, L) whose answers are the head's A, or "options",
                (B, A, L), the texts to choose from.

        Raises:
            ConfigError: a model without a head of answers.
            InputError: wrong shapes.
        """
        raise ConfigError(f"the model {self.name} answers no questions: choose one that does, such as all_in_one")

    def embeddings(self, batch: Mapping[str, Tokens | None]) -> Embeddings:
        """Embed every combination that the training objective compares."""
        raise NotImplementedError

    def loss(self, batch: Mapping[str, Tokens | None]) -> tuple[Tensor, dict[str, Tensor]]:
        """The training objective, and each of its terms by name (detached)."""
        raise NotImplementedError

    def epoch_ended(self) -> None:
        """Called by a training after the last step of every epoch, before its state is saved."""

    def forward(self, batch: Mapping[str, Tokens | None]) -> tuple[Tensor, dict[str, Tensor]]:
        """`loss`, so that wrappers for parallel training see it."""
        return self.loss(batch)

    def from_official(self, state_dict: Mapping[str, Any], config: Mapping[str, Any] | None = None) -> FusionModel:
        """Take the authors' published weights. See each model for the names of `config`.

        With a configuration, given or in the checkpoint, a new model of that shape is returned; without one the weights
        go into this model.
        """
        raise NotImplementedError

    def to_official(self) -> dict[str, Any]:
        """The weights as the authors' code reads them, where there is such code."""
        raise NotImplementedError


def present_modalities(batch: Mapping[str, Tokens | None], modalities: Sequence[str] = MODALITIES) -> tuple[str, ...]:
    """Those of the modalities that a batch holds rows of (N > 0), in their order."""
    present = {name: tokens for name in modalities if (tokens := batch.get(name)) is not None}
    return tuple(name for name, tokens in present.items() if tokens.values.shape[1:2] != (0,))


def given_modalities(
    batch: Mapping[str, Tokens | None], *, dims: Mapping[str, int], allowed: Sequence[str] = MODALITIES
) -> dict[str, Tokens]:
    """The modalities that a batch really holds, in the order of `allowed`, with their shapes and numbers checked.

    A modality that is None or has no rows at all (N = 0) is left out. Padding that is not finite comes back as zeros.

    Raises:
        InputError: an unknown modality, a wrong width, masks that do not fit, or nothing left.
        NonFiniteError: NaN or infinity in a row that is not padding.
    """
    given = _present(batch, allowed)
    for name, tokens in given.items():
        shape = tuple(tokens.values.shape)
        if len(shape) != 3 or shape[2] != dims[name]:
            raise InputError(f"{name} has shape {shape}; this model takes (batch, rows, {dims[name]})")
        if not tokens.values.is_floating_point():
            raise InputError(f"{name} holds {tokens.values.dtype}; this model takes rows of floating-point numbers")
        _check_mask(name, tokens)
    _check_sizes(given)
    return {name: finite_tokens(name, tokens) for name, tokens in given.items()}


def _present(batch: Mapping[str, Tokens | None], allowed: Sequence[str]) -> dict[str, Tokens]:
    """The modalities of a batch that have rows. Raises InputError for an unknown one, and where none is left."""
    for name, tokens in batch.items():
        if tokens is not None and name not in allowed:
            raise InputError(f"the batch has a modality {name!r}; this model takes {', '.join(allowed)}")
    given = {name: rows for name in present_modalities(batch, allowed) if (rows := batch[name]) is not None}
    if not given:
        raise InputError(f"the batch holds no modality; give at least one of {', '.join(allowed)}")
    return given


def _check_mask(name: str, tokens: Tokens) -> None:
    wanted = tuple(tokens.values.shape[:2])
    if tuple(tokens.mask.shape) != wanted:
        raise InputError(f"the mask of {name} has shape {tuple(tokens.mask.shape)}; its values need {wanted}")


def _check_sizes(given: Mapping[str, Tokens]) -> None:
    sizes = {name: len(tokens.values) for name, tokens in given.items()}
    if len(set(sizes.values())) > 1:
        raise InputError(f"the modalities of a batch must have the same number of samples; got {sizes}")


def given_pixels(
    batch: Mapping[str, Tokens | None],
    *,
    size: int,
    vocabulary: int,
    max_words: int | None = None,
    allowed: Sequence[str] = ("text", "video"),
) -> dict[str, Tokens]:
    """The text and video that a batch of pictures really holds, checked; columns that are padding alone are cut off.

    Args:
        batch: "video": (B, T, 3, size, size), bytes of RGB from 0 to 255, or floating-point numbers that are normalised
            already; (B, T) masks of frames. "text": (B, L) int64 token ids of the model's tokenizer, marks of beginning
            and end among them; (B, L) masks. A modality that is None or has no rows at all is left out.
        size: pixels of a side of a picture.
        vocabulary: ids are below it.
        max_words: a text of more real tokens is cut, and its last one (the mark of the end) kept; None: no limit.
        allowed: the model's modalities, in the order of the answer.

    Raises:
        InputError: an unknown modality, a wrong shape or type, ids outside the vocabulary, masks that do not fit,
            modalities of different numbers of samples, or nothing left.
        NonFiniteError: NaN or infinity in a frame that is not padding.
    """
    given = _present(batch, allowed)
    for name, tokens in given.items():
        shape, kind = tuple(tokens.values.shape), tokens.values.dtype
        wanted = "(batch, tokens)" if name == "text" else f"(batch, frames, 3, {size}, {size})"
        if len(shape) != (2 if name == "text" else 5) or (name != "text" and shape[2:] != (3, size, size)):
            raise InputError(f"{name} has shape {shape}; this model takes {wanted}")
        if name == "text" and kind != torch.int64:
            raise InputError(f"text holds {kind}; this model takes token ids of type int64")
        if name != "text" and not (kind == torch.uint8 or kind.is_floating_point):
            raise InputError(
                f"{name} holds {kind}; this model takes bytes (uint8) or normalised floating-point numbers"
            )
        _check_mask(name, tokens)
    _check_sizes(given)
    cut = {name: _without_padding(tokens) for name, tokens in given.items()}
    if "text" in cut:
        ids, mask = cut["text"].values, cut["text"].mask.bool()
        if ids.numel() and bool((mask & ((ids < 0) | (ids >= vocabulary))).any()):
            wrong = ids[mask & ((ids < 0) | (ids >= vocabulary))][0]
            raise InputError(
                f"text has the token id {int(wrong)}; this model's vocabulary has ids 0 to {vocabulary - 1}"
            )
        cut["text"] = _shortened(Tokens(ids.where(mask, 0), mask), max_words)
    return {
        name: finite_tokens(name, tokens) if tokens.values.is_floating_point() else tokens
        for name, tokens in cut.items()
    }


def _without_padding(tokens: Tokens) -> Tokens:
    """Columns up to the last one that is real in any sample; one at least."""
    real = tokens.mask.bool().any(dim=0).nonzero()
    end = int(real[-1]) + 1 if len(real) else 1
    return tokens if end == tokens.mask.shape[1] else Tokens(tokens.values[:, :end], tokens.mask[:, :end])


def _shortened(text: Tokens, max_words: int | None) -> Tokens:
    """At most so many tokens, the last real one of each sample being kept in the last place."""
    if max_words is None or text.mask.shape[1] <= max_words:
        return text
    ids, mask = text
    places = torch.arange(mask.shape[1], device=mask.device)
    last = (mask * places).argmax(dim=1, keepdim=True)
    kept_ids, kept_mask = ids[:, :max_words].clone(), mask[:, :max_words].clone()
    is_cut = last[:, 0] >= max_words
    kept_ids[is_cut, -1] = ids.gather(1, last)[is_cut, 0]
    kept_mask[is_cut, -1] = True
    return Tokens(kept_ids, kept_mask)


def finite_tokens(name: str, tokens: Tokens) -> Tokens:
    """The tokens, with zeros where padding is not finite. Raises NonFiniteError for rows that are real."""
    # A sum is not finite where a number is not, and reads the values once, without another tensor of their size.
    if tokens.values.sum().isfinite():
        return tokens
    bad_BN = ~tokens.values.isfinite().flatten(2).all(dim=2)
    samples = (bad_BN & tokens.mask.bool()).any(dim=1).nonzero().flatten().tolist()
    if samples:
        raise NonFiniteError(name, samples)
    bad = bad_BN.view(*bad_BN.shape, *[1] * (tokens.values.dim() - 2))
    return tokens._replace(values=torch.where(bad, 0.0, tokens.values))


def paired(text: Tokens, video: Tokens) -> tuple[Tokens, Tokens]:
    """Texts and videos of pairs; one alone goes with each of the others. Raises InputError for other numbers."""
    counts = len(text.mask), len(video.mask)
    if counts[0] != counts[1] and 1 not in counts:
        raise InputError(f"a score needs as many texts as videos, or one of either; got {counts[0]} and {counts[1]}")
    sides = (Tokens(*(part.expand(max(counts), *part.shape[1:]) for part in side)) for side in (text, video))
    return next(sides), next(sides)


def padded_to(tokens: Tokens, num_rows: int) -> Tokens:
    """Rows of zeros put after the others until there are so many."""
    missing = max(num_rows - tokens.values.shape[1], 0)
    if not missing:
        return tokens
    return Tokens(functional.pad(tokens.values, (0, 0, 0, missing)), functional.pad(tokens.mask, (0, missing)))


def load_weights(model: nn.Module, state_dict: Mapping[str, Tensor]) -> None:
    """Load a state dict whose keys are exactly the model's own, but for the prefix of data parallelism.

    Raises:
        InputError: keys missing or unexpected, shapes wrong, numbers not finite; the first five of each are listed.
            The model is left as it was.
    """
    weights = {str(key).removeprefix("module."): value for key, value in state_dict.items()}
    for key, value in weights.items():
        if not isinstance(value, Tensor):
            raise InputError(f"weights must be tensors by name; {key!r} is {type(value).__name__}")
    own = model.state_dict()
    known = own.keys() & weights.keys()
    is_plain = {key: value.layout == torch.strided and not value.is_complex() for key, value in weights.items()}
    problems = {
        "missing": own.keys() - weights.keys(),
        "unexpected": weights.keys() - own.keys(),
        "wrong shape": {
            f"{key} {tuple(weights[key].shape)} for {tuple(own[key].shape)}"
            for key in known
            if weights[key].shape != own[key].shape
        },
        "sparse or complex": {key for key, plain in is_plain.items() if not plain},
        "not finite": {key for key in known if is_plain[key] and not weights[key].isfinite().all()},
    }
    listed = []
    for problem, keys in problems.items():
        more = f" and {len(keys) - 5} more" if len(keys) > 5 else ""
        listed += [f"{problem}: {', '.join(sorted(keys)[:5])}{more}"] if keys else []
    if listed:
        raise InputError(f"these weights do not fit the model's configuration: {'; '.join(listed)}")
    model.load_state_dict(weights)


def start_weights(model: nn.Module, weights: Mapping[str, Tensor], *, source: str) -> list[str]:
    """Load those weights of another network that a model has under the same names; the others stay as they are.

    Args:
        model: what begins with them.
        weights: under the model's names; further ones, such as a classifier's, are left out.
        source: the other network, for messages.

    Returns:
        The names of the weights that were loaded.

    Raises:
        InputError: none that the model has, or another shape, as of another picture size, width or vocabulary. The
            model is left as it was.
    """
    own = model.state_dict()
    known = sorted(own.keys() & weights.keys())
    if not known:
        raise InputError(f"none of these weights is one of {source}; they begin with {', '.join(sorted(weights)[:3])}")
    for name in known:
        if weights[name].shape != own[name].shape:
            raise InputError(
                f"{name} is {tuple(own[name].shape)} here and {tuple(weights[name].shape)} in {source}: build the "
                "model with its picture size, patch size, width and vocabulary"
            )
    load_weights(model, {**own, **{name: weights[name] for name in known}})
    return known


def start_trained(model: nn.Module, weights: Mapping[str, Tensor], *, heads: Sequence[str] = ()) -> list[str]:
    """Begin with a trained model of the same parts, as a fine-tuning does.

    Counters begin at 0. Of another number of words or frames those positions are taken that both have; tokens in the
    place of masked patches, which only some trainings have, may be missing on either side.

    Args:
        model: what begins with it.
        weights: the trained model's, under the same names. Parts that the model does not have are left out.
        heads: beginnings of names within a part that some tasks lack, or have in another form.

    Returns:
        The parts and heads that the trained model lacks, or has in another form; they stay as they are.

    Raises:
        InputError: weights of a part that are missing or too many, as of another depth, or of another shape. The model
            is left as it was.
    """

    def in_parts(named: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        parts: dict[str, dict[str, Tensor]] = {}
        for name, value in named.items():
            if value.is_floating_point():
                part = next((head for head in heads if name.startswith(head)), name.split(".")[0])
                parts.setdefault(part, {})[name] = value
        return parts

    trained, taken, new, problems = in_parts(weights), dict[str, Tensor](), [], []
    for part, own in in_parts(model.state_dict()).items():
        given = trained.get(part, {})
        shapes = [{name: value.shape for name, value in each.items()} for each in (own, given)]
        if not given or (part in heads and shapes[0] != shapes[1]):
            new.append(part.removesuffix("."))
            continue
        for verb, names in (("lack", own.keys() - given.keys()), ("have besides", given.keys() - own.keys())):
            if shown := sorted(name for name in names if not name.endswith("mask_token")):
                problems.append(f"{verb} {', '.join(shown[:3])} ({len(shown)} in all)")
        taken |= {name: _fitted(name, given[name], own[name]) for name in own.keys() & given.keys()}
    if problems or not taken:
        raise InputError(
            f"the weights to begin with are of another model: they {'; '.join(problems) or 'share no part'}"
        )
    start_weights(model, taken, source="the weights to begin with")
    return sorted(new)


_OF_PLACES = re.compile(
    r"(temporal_embed|temporal_position_embeddings|tempor_pos|\w_pos_embed|position_embeddings\.weight)$"
)
"""Tables with a row for each word, frame or time of a clip; not those of the patches of a picture."""


def _fitted(name: str, given: Tensor, own: Tensor) -> Tensor:
    """A table of positions with as many as the model has: those that both have, then the model's."""
    apart = [axis for axis, (one, other) in enumerate(zip(given.shape, own.shape, strict=False)) if one != other]
    if given.dim() != own.dim() or len(apart) != 1 or not _OF_PLACES.search(name):
        return given
    both = min(given.shape[apart[0]], own.shape[apart[0]])
    rest = own.narrow(apart[0], both, own.shape[apart[0]] - both)
    return torch.cat([given.narrow(apart[0], 0, both), rest.to(given)], dim=apart[0])


def renamed_config(official: Mapping[str, Any], names: Mapping[str, str], *, where: str) -> dict[str, Any]:
    """Translate an official configuration's names into ours. Raises ConfigError for a name that has no meaning here."""
    unknown = sorted(official.keys() - names.keys())
    if unknown:
        raise ConfigError(f"{where} has no key {', '.join(map(repr, unknown))}; known: {', '.join(sorted(names))}")
    return {names[key]: value for key, value in official.items()}
