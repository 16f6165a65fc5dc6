"""What requests of lm-evaluation-harness ask for, in this library's settings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast, final

from pydantic import Field, PositiveInt

from dmpo.errors import ConfigError, DataError, nearest_name
from dmpo.evaluation.scoring import ScoredText
from dmpo.likelihoods.base import Likelihood
from dmpo.registry import LIKELIHOODS, SAMPLERS
from dmpo.samplers.base import SamplerConfig
from dmpo.settings import Settings

__all__ = [
    "GenerationRequest",
    "HarnessSettings",
    "build_likelihood",
    "cut_text",
    "read_generation",
]

NUM_VIEWS = 32
"""Views of the ELBO where nobody says."""
GEN_LENGTH = 256
"""Tokens to generate where neither task nor user says; the harness's own default."""
LENGTH_NAMES = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "min_p": (0,),
    "num_beams": (1,),
    "repetition_penalty": (1,),
    "top_k": (0, -1, None),
    "top_p": (1, None),
    "typical_p": (1,),
}
"""Settings of other decoders that tasks carry, and the values that change nothing."""
WITHOUT_DRAWS = frozenset({"min_p", "top_k", "top_p", "typical_p"})
"""Those that change nothing at temperature 0."""


class HarnessSettings(Settings):
    """How requests are answered."""

    sampler: str = Field("low_confidence", description="How answers are generated.")
    sampler_parameters: Mapping[str, Any] = Field(
        default_factory=dict,
        description="The sampler's own settings. What a request says of length, temperature or "
        "any other of them comes first.",
    )
    likelihood: str = Field("elbo", description="How log-likelihoods are estimated.")
    likelihood_parameters: Mapping[str, Any] = Field(
        default_factory=dict,
        description=f"The likelihood's own settings; elbo has {NUM_VIEWS} views unless told "
        "otherwise.",
    )
    batch_size: PositiveInt = Field(32, description="Sequences per forward pass, at most.")
    score_eos: bool = Field(
        False, description="Whether a continuation's score includes that it ends there."
    )
    seed: int = Field(0, ge=0, description="Seed of views and draws.")


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """What a request to generate asks for."""

    until: tuple[str, ...]
    """Where the text ends: before the first of these."""
    parameters: Mapping[str, Any]
    """Of the sampler, ``temperature`` among them."""
    gen_length: int
    """Tokens of the canvas, whole blocks of them."""


@final
class RequestReader:
    """Turns texts of requests into tokens.

    Special tokens that the tokenizer puts around a prompt are put around a context, unless the
    text begins with them, as one that went through a chat template does.

    Args:
        tokenizer: A tokenizer with transformers' interface.
        max_length: The model's context, in tokens.
        ending: Tokens that are scored behind every continuation.
    """

    def __init__(self, tokenizer: Any, *, max_length: int, ending: tuple[int, ...] = ()) -> None:
        """Keep the parts."""
        self._tokenizer = tokenizer
        self._max_length = max_length
        self._ending = ending
        self._begins = tuple(t for t in (tokenizer.bos_token, tokenizer.cls_token) if t)

    def context(self, text: str) -> tuple[int, ...]:
        """Return the tokens of what stands before an answer.

        Raises:
            DataError: If the tokenizer cannot express the text.
        """
        return self._ids(text, special=not text.startswith(self._begins))

    def pair(self, context: str, continuation: str) -> ScoredText:
        """Return both texts in tokens: those of the two together, cut where the context ends.

        Spaces at the end of the context belong to the continuation. A context that is too long
        loses its beginning.

        Raises:
            DataError: If a text cannot be expressed, or the continuation alone is too long.
        """
        stripped = context.rstrip()
        if continuation:
            continuation, context = context[len(stripped) :] + continuation, stripped
        target = self._ids(context + continuation)[len(self._ids(context)) :]
        target = (target or self._ids(continuation)) + self._ending
        room = self._max_length - len(target)
        if room < 0:
            raise DataError(
                f"request: a continuation of {len(target)} tokens is longer than the model's "
                f"context of {self._max_length}; given {_short(continuation)}."
            )
        ids = self.context(context)
        return ScoredText(
            context=ids[max(0, len(ids) - room) :], target=target, key=f"score {context}"
        )

    def windows(self, text: str) -> Iterator[ScoredText]:
        """Return the windows that a text without a context is scored in, each token in one.

        The first is as long as the model's context; each later one is half as long and stands
        behind the half before it.

        Raises:
            DataError: If the tokenizer cannot express the text.
        """
        ids, start, context = self._ids(text), 0, self.context("")
        while start < len(ids):
            target = ids[start : start + self._max_length - len(context)]
            yield ScoredText(context=context, target=target, key=f"rolling {start} {text}")
            start += len(target)
            context = ids[max(0, start - self._max_length // 2) : start]

    def _ids(self, text: str, *, special: bool = False) -> tuple[int, ...]:
        try:
            return tuple(self._tokenizer(text, add_special_tokens=special)["input_ids"])
        except Exception as error:  # a vocabulary without an unknown token raises plainly
            known = self._tokenizer.get_vocab()
            unknown = sorted({character for character in text if character not in known})
            raise DataError(
                f"request: the tokenizer has no token for {', '.join(map(repr, unknown[:5]))}; "
                f"given {_short(text)}."
            ) from error


def build_likelihood(settings: HarnessSettings) -> Likelihood:
    """Build the likelihood.

    Raises:
        ConfigError: If its settings are wrong, or it needs to know how a text was generated.
    """
    given = dict(settings.likelihood_parameters)
    if settings.likelihood == "elbo":
        given.setdefault("num_views", NUM_VIEWS)
    likelihood = LIKELIHOODS.build(settings.likelihood, given)
    if likelihood.needs_path or settings.likelihood == "trace":
        raise ConfigError(
            f"likelihood: {settings.likelihood!r} needs to know how a text was generated, and the "
            "texts of a data set were not; use 'elbo' or another."
        )
    return likelihood


def read_generation(asked: Mapping[str, Any], settings: HarnessSettings) -> GenerationRequest:
    """Return what ``generation_kwargs`` say, for the sampler that is there.

    ``do_sample: false`` is temperature 0, which is also taken where nobody says anything.
    ``max_gen_toks`` (or one of its other names) is rounded up to whole blocks.

    Args:
        asked: As the task has them.
        settings: Sampler, and what it does where the task says nothing.

    Raises:
        ConfigError: If they ask for what the sampler does not do.
    """
    given, parameters = dict(asked), dict(settings.sampler_parameters)
    until = given.pop("until", None) or ()
    lengths = [given.pop(name, None) for name in LENGTH_NAMES]
    length = next((n for n in lengths if n is not None), parameters.get("gen_length", GEN_LENGTH))
    is_drawn, temperature = given.pop("do_sample", None), given.pop("temperature", None)
    if is_drawn is False:
        temperature = 0.0
    elif temperature is None:
        temperature = parameters.get("temperature", 1.0 if is_drawn else 0.0)
    fields = SAMPLERS.load(settings.sampler).Config.model_fields
    for name, value in given.items():
        if name in fields:
            parameters[name] = value
        elif value not in NEUTRAL.get(name, ()) and (temperature or name not in WITHOUT_DRAWS):
            raise _unknown(name, value, settings.sampler, fields)
    parameters["temperature"] = temperature
    parameters["gen_length"] = _whole_blocks(length, parameters.get("block_length"))
    config = cast("SamplerConfig", SAMPLERS.config(settings.sampler, parameters))
    texts = (until,) if isinstance(until, str) else tuple(map(str, until))
    return GenerationRequest(until=texts, parameters=parameters, gen_length=config.gen_length)


def cut_text(text: str, until: Iterable[str]) -> str:
    """Return a text up to the first place where one of some others begins; empty ones are none.

    Example:
        >>> cut_text("4. Q: 5", ["Q:", ". "])
        '4'
    """
    places = [text.find(end) for end in until if end]
    return text[: min((place for place in places if place >= 0), default=len(text))]


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}…")


def _whole_blocks(length: Any, block: Any) -> Any:
    is_whole = all(isinstance(n, int) and not isinstance(n, bool) for n in (length, block))
    if not is_whole or block < 1:  # one block, or something that the sampler refuses by its name
        return length
    return -(-length // block) * block


def _unknown(name: str, value: Any, sampler: str, fields: Iterable[str]) -> ConfigError:
    accepted = sorted({"until", "do_sample", "max_gen_toks", *fields})
    near = nearest_name(name, accepted)
    hint = f" Did you mean {near!r}?" if near else ""
    return ConfigError(
        f"generation_kwargs.{name}: sampler {sampler!r} has no such setting; given {value!r}; "
        f"accepted: {', '.join(accepted)}.{hint}"
    )
