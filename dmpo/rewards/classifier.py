"""A trained reward model: any sequence classifier of transformers."""

from __future__ import annotations

from string import Formatter
from typing import Any, Literal, final

import torch
from jaxtyping import Float
from pydantic import Field, field_validator, model_validator
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from dmpo.errors import ConfigError, RewardError, nearest_name
from dmpo.policies.locate import quiet_library
from dmpo.records import Example, Rewards, Rollouts
from dmpo.registry import PluginConfig
from dmpo.rewards.base import RewardModel
from dmpo.rewards.running import row_name
from dmpo.tasks.base import Task

__all__ = ["ClassifierReward", "ClassifierRewardConfig"]

FIELDS = ("prompt", "prefill", "completion")


class ClassifierRewardConfig(PluginConfig):
    """Parameters of :class:`ClassifierReward`."""

    model: str = Field(min_length=1, description="A directory or a hub id.")
    revision: str | None = Field(None, description="Branch, tag or commit of a hub id.")
    label: str | int | None = Field(
        None,
        description="Which of several labels is good, by name or number; of one label: null.",
    )
    value: Literal["probability", "logit"] = Field(
        "probability", description="What is taken of that label; of one label: its score."
    )
    template: str | None = Field(
        None,
        description="Text that is scored, with {prompt}, {prefill} and {completion}; null: the "
        "tokenizer's chat template, or without one the three behind each other.",
    )
    batch_size: int = Field(16, ge=1, description="Texts scored at once.")
    max_length: int | None = Field(
        None, ge=1, description="Tokens of a text, at most; the beginning of longer ones is cut."
    )

    @field_validator("template")
    @classmethod
    def _names_what_there_is(cls, template: str | None) -> str | None:
        if template is None:
            return None
        try:
            names = [name for _, name, _, _ in Formatter().parse(template) if name is not None]
        except ValueError as error:
            raise ValueError(f"is no template: {error}; a brace itself is written twice") from None
        if unknown := [name for name in names if name not in FIELDS]:
            raise ValueError(f"{{{unknown[0]}}} is none of {{{'}, {'.join(FIELDS)}}}")
        if "completion" not in names:
            raise ValueError("must contain {completion}")
        return template

    @model_validator(mode="after")
    def _value_needs_a_label(self) -> ClassifierRewardConfig:
        if self.label is None and "value" in self.model_fields_set:
            raise ValueError("value has no effect without label.")
        return self


@final
class ClassifierReward(RewardModel):
    """What a classifier says of prompt and completion.

    One label (as reward models have, TRL's too): its raw score. Several: the probability or the
    logit of ``label``. The model is frozen, in evaluation mode, and moves to the accelerator
    when it is first asked; it is loaded from the hub's cache or a directory, from safetensors alone
    and without a line of the model's own code.
    """

    Config = ClassifierRewardConfig

    def __init__(self, config: ClassifierRewardConfig) -> None:
        """Load the model and its tokenizer.

        Raises:
            ConfigError: If they cannot be loaded, or have no such label.
        """
        self.config = config
        with quiet_library():
            self._tokenizer = _loaded(AutoTokenizer, config)
            self._model = _loaded(AutoModelForSequenceClassification, config, use_safetensors=True)
        self._model.eval().requires_grad_(False)
        self._label = _label(self._model.config, config.label)
        self._max_length = _max_length(self._tokenizer, self._model.config, config.max_length)
        self._tokenizer.truncation_side = "left"
        self._tokenizer.padding_side = "right"
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token or self._tokenizer.unk_token
        if self._model.config.pad_token_id is None:
            self._model.config.pad_token_id = self._tokenizer.pad_token_id

    def score(self, rollouts: Rollouts, task: Task) -> Rewards:  # noqa: ARG002
        """Score every rollout, each different text once.

        Raises:
            RewardError: If a score is not finite.
        """
        device = rollouts.completions.device
        if device.type not in ("cpu", "mps"):
            self._model.to(device)
        texts = [
            self._text(example, completion)
            for example, group in zip(rollouts.prompts.examples, rollouts.texts, strict=True)
            for completion in group
        ]
        # Texts of one length together need the least padding.
        distinct = sorted(dict.fromkeys(texts), key=len)
        size = self.config.batch_size
        scores = torch.cat(
            [
                self._scores(distinct[start : start + size])
                for start in range(0, len(distinct), size)
            ]
        )
        found = dict(zip(distinct, scores.tolist(), strict=True))
        values = torch.tensor([found[text] for text in texts])
        if not values.isfinite().all():
            row = int((~values.isfinite()).nonzero()[0])
            raise RewardError(
                f"reward classifier {self.config.model}, {row_name(row, rollouts.num_rollouts)}: "
                f"its score is {values[row].item()}."
            )
        total = values.reshape(rollouts.num_prompts, rollouts.num_rollouts)
        return Rewards(total=total, components={"score": total.clone()})

    def _text(self, example: Example, completion: str) -> str:
        if self.config.template is not None:
            return self.config.template.format(
                prompt=example.prompt, prefill=example.prefill, completion=completion
            )
        answer = example.prefill + completion
        if not self._tokenizer.chat_template:
            return example.prompt + answer
        messages = [
            {"role": "user", "content": example.prompt},
            {"role": "assistant", "content": answer},
        ]
        return str(self._tokenizer.apply_chat_template(messages, tokenize=False))

    @torch.no_grad()
    def _scores(self, texts: list[str]) -> Float[Tensor, " k"]:
        is_chat = self.config.template is None and bool(self._tokenizer.chat_template)
        encoded = self._tokenizer(
            # Lone surrogates are no UTF-8, which tokenizers need.
            [text.encode(errors="replace").decode() for text in texts],
            padding=True,
            truncation=self._max_length is not None,
            max_length=self._max_length,
            # A chat template has written the special tokens itself.
            add_special_tokens=not is_chat,
            return_tensors="pt",
        ).to(self._model.device)
        logits: Tensor = self._model(**encoded).logits.float()
        if self._label is None:
            return logits[:, 0].cpu()
        if self.config.value == "probability":
            logits = logits.softmax(dim=-1)
        return logits[:, self._label].cpu()


def _loaded(family: Any, config: ClassifierRewardConfig, **options: Any) -> Any:
    try:
        # Left out, trust_remote_code would have the library ask at the terminal.
        return family.from_pretrained(
            config.model, revision=config.revision, trust_remote_code=False, **options
        )
    except Exception as error:  # the library raises whatever its layers raise
        reason = str(error).strip().split("\n")[0]
        raise ConfigError(
            f"reward.model: {config.model} is no sequence classifier that can be loaded: "
            f"{type(error).__name__}: {reason} (Weights must be safetensors: a pickle, such as "
            "pytorch_model.bin, and a model's own code are never run.)"
        ) from error


def _label(model: Any, label: str | int | None) -> int | None:
    names = {str(name): int(number) for number, name in model.id2label.items()}
    count = int(model.num_labels)
    listed = ", ".join(f"{number}: {name}" for name, number in names.items())
    if label is None:
        if count > 1:
            raise ConfigError(f"reward.label: the model has {count}; say which is good: {listed}.")
        return None
    if count == 1:
        raise ConfigError("reward.label: the model has one label, whose score is taken; null.")
    if isinstance(label, str) and label in names:
        return names[label]
    if isinstance(label, int) and 0 <= label < count:
        return label
    near = nearest_name(str(label), names)
    hint = f" Did you mean {near!r}?" if near else ""
    raise ConfigError(f"reward.label: no label {label!r}; the model has {listed}.{hint}")


def _max_length(tokenizer: Any, model: Any, given: int | None) -> int | None:
    """Return what is given, or what the model has positions for."""
    if given is not None:
        return given
    known = [tokenizer.model_max_length, getattr(model, "max_position_embeddings", None)]
    # A tokenizer that does not know says 10^30.
    lengths = [length for length in known if isinstance(length, int) and 0 < length < 10**9]
    return min(lengths) if lengths else None
