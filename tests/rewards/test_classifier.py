from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from dmpo.errors import ConfigError, RewardError
from dmpo.records import Example
from dmpo.rewards.classifier import ClassifierReward, ClassifierRewardConfig
from tests.rewards.helpers import rollouts_of
from tests.rewards.tasks import LengthTask

EXAMPLES = [Example(prompt="ab", prefill="c"), Example(prompt="b")]
ROLLOUTS = rollouts_of(EXAMPLES, [["a", "bb"], ["abc", "a"]])
TEXTS = ["abca", "abcbb", "babc", "ba"]


def saved(path: Path, num_labels: int, *, template: str | None = None) -> Path:
    """Save a small untrained classifier of single characters."""
    vocabulary = {"[PAD]": 0, "[UNK]": 1, **{c: n for n, c in enumerate("abcdu:", 2)}}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="[PAD]", unk_token="[UNK]", chat_template=template
    )
    tokenizer.save_pretrained(path)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        max_position_embeddings=12,
        num_labels=num_labels,
        initializer_range=1.0,
        id2label=dict(enumerate(["bad", "good", "best"][:num_labels])),
    )
    BertForSequenceClassification(config).save_pretrained(path)
    return path


def reward(path: Path, **settings: Any) -> ClassifierReward:
    return ClassifierReward(ClassifierRewardConfig(model=str(path), **settings))


def logits(path: Path, text: str) -> torch.Tensor:
    model = BertForSequenceClassification.from_pretrained(path).eval()
    ids = [" abcdu:".index(c) + 1 for c in text]
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0]


def test_one_label_is_the_reward(tmp_path: Path) -> None:
    scored = reward(saved(tmp_path, 1), batch_size=3).score(ROLLOUTS, LengthTask())
    expected = torch.stack([logits(tmp_path, text)[0] for text in TEXTS]).reshape(2, 2)
    torch.testing.assert_close(scored.total, expected)
    assert scored.components["score"].equal(scored.total)
    assert not scored.total.requires_grad


@pytest.mark.parametrize("label", ["good", 1])
def test_named_label_gives_its_probability_or_logit(tmp_path: Path, label: str | int) -> None:
    saved(tmp_path, 3)
    rows = torch.stack([logits(tmp_path, text) for text in TEXTS])
    probability = reward(tmp_path, label=label).score(ROLLOUTS, LengthTask()).total
    torch.testing.assert_close(probability.flatten(), rows.softmax(-1)[:, 1])
    logit = reward(tmp_path, label=label, value="logit").score(ROLLOUTS, LengthTask()).total
    torch.testing.assert_close(logit.flatten(), rows[:, 1])


def test_template_says_what_is_scored(tmp_path: Path) -> None:
    scored = reward(saved(tmp_path, 1), template="{completion}:{prompt}").score(
        ROLLOUTS, LengthTask()
    )
    torch.testing.assert_close(scored.total[1, 1], logits(tmp_path, "a:b")[0])


def test_chat_template_of_the_tokenizer_is_used(tmp_path: Path) -> None:
    chat = "{% for m in messages %}{{ m.role[0] }}:{{ m.content }}{% endfor %}"
    scored = reward(saved(tmp_path, 1, template=chat)).score(ROLLOUTS, LengthTask())
    # "assistant" begins with an a
    torch.testing.assert_close(scored.total[0, 0], logits(tmp_path, "u:aba:ca")[0])


def test_beginning_of_a_long_text_is_cut(tmp_path: Path) -> None:
    rollouts = rollouts_of([EXAMPLES[1]], [["a" * 40 + "bcdbcdbcdbcd", "a"]])
    for settings, kept in (({}, "bcdbcdbcdbcd"), ({"max_length": 4}, "dbcd")):
        scored = reward(saved(tmp_path, 1), **settings).score(rollouts, LengthTask())
        torch.testing.assert_close(scored.total[0, 0], logits(tmp_path, kept)[0])


def test_model_is_frozen(tmp_path: Path) -> None:
    model = reward(saved(tmp_path, 1))._model
    assert not model.training
    assert not any(weight.requires_grad for weight in model.parameters())


@pytest.mark.parametrize("text", ["", "\ud800", "\0", "<|eot_id|>", "é" * 3000])
def test_any_text_has_a_score(tmp_path: Path, text: str) -> None:
    rollouts = replace(rollouts_of(EXAMPLES[:1], [["a"]]), texts=((text,),))
    assert reward(saved(tmp_path, 1)).score(rollouts, LengthTask()).total.isfinite().all()


def test_score_that_is_not_finite_is_named_with_its_row(tmp_path: Path) -> None:
    scorer = reward(saved(tmp_path, 1))
    scorer._model.classifier.bias.fill_(torch.nan)
    with pytest.raises(RewardError, match=r"row 0 \(prompt 0, rollout 0\): its score is nan"):
        scorer.score(ROLLOUTS, LengthTask())


@pytest.mark.parametrize(
    ("num_labels", "label", "message"),
    [
        (3, None, "the model has 3; say which is good: 0: bad, 1: good, 2: best"),
        (3, "god", "no label 'god'; .* Did you mean 'good'"),
        (3, 3, "no label 3"),
        (1, "bad", "the model has one label"),
    ],
)
def test_label_must_be_the_models(
    tmp_path: Path, num_labels: int, label: str | int | None, message: str
) -> None:
    with pytest.raises(ConfigError, match=f"^reward.label: {message}"):
        reward(saved(tmp_path, num_labels), label=label)


def test_model_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^reward.model: .* is no sequence classifier"):
        reward(tmp_path / "absent")


@pytest.mark.parametrize(
    ("template", "message"),
    [("{text}", "is none of"), ("{prompt}", "must contain"), ("{completion", "is no template")],
)
def test_template_must_name_what_there_is(template: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ClassifierRewardConfig(model="m", template=template)
