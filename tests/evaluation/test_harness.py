"""lm-evaluation-harness on the shipped model, with tasks of this file, offline."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("lm_eval", reason="needs the extra 'eval'")

from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.tasks import TaskManager

from dmpo.errors import CheckpointError, ConfigError, DataError
from dmpo.evaluation.harness import HarnessModel, evaluate_tasks, main
from dmpo.evaluation.requests import HarnessSettings, cut_text, read_generation
from dmpo.policies.llada import LladaPolicy
from dmpo.registry import POLICIES, SAMPLERS
from dmpo.tasks.sudoku import SudokuConfig, SudokuTask

PUZZLES = SudokuTask(SudokuConfig()).examples("test")[:6]
PAIRS = [
    ("1+2=", "3"),
    ("1+2=", "4"),
    ("12 = ", "345"),
    ("", "abc"),
    ("1230", "0123456789"),
    ("a longer context", "345"),
    ("1+2=", " 55"),
]
TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}"
    "{% if not loop.last or add_generation_prompt %}</>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@cache
def tiny() -> LladaPolicy:
    policy = POLICIES.build("llada", {})
    assert isinstance(policy, LladaPolicy)
    return policy


@pytest.fixture
def templated() -> Iterator[LladaPolicy]:
    """Give the shipped model's tokenizer a chat template for the time."""
    tiny().tokenizer.chat_template = TEMPLATE
    yield tiny()
    tiny().tokenizer.chat_template = None


def model(**settings: Any) -> HarnessModel:
    return HarnessModel(tiny(), HarnessSettings(**settings))


def requests(kind: str, arguments: list[tuple[Any, ...]]) -> list[Instance]:
    return [Instance(kind, {}, each, 0) for each in arguments]


def log_probs(lm: HarnessModel, pairs: list[tuple[str, str]]) -> list[float]:
    answers = lm.loglikelihood(requests("loglikelihood", pairs), disable_tqdm=True)
    return [score for score, _ in answers]


def texts(lm: HarnessModel, prompts: list[str], **kwargs: Any) -> list[str]:
    asked = requests("generate_until", [(prompt, kwargs) for prompt in prompts])
    return lm.generate_until(asked, disable_tqdm=True)


def mean_field_sum(context: str, continuation: str) -> float:
    """Return the sum of the log-probabilities of the tokens where all of them are hidden."""
    policy = tiny()
    ids = policy.tokenizer(context + continuation)["input_ids"]
    tokens = torch.tensor([ids])
    where = torch.zeros_like(tokens, dtype=torch.bool)
    where[:, len(context) :] = True
    everything = torch.ones_like(where)
    with policy.evaluating():
        noisy = policy.corrupt(tokens, where)
        return float(policy.token_logprobs(noisy, everything, tokens, where).sum())


def chain_rule_sum(context: str, continuation: str) -> float:
    """Return the log-probability of writing the tokens one by one, from left to right."""
    policy = tiny()
    tokens = torch.tensor([policy.tokenizer(context + continuation)["input_ids"]])
    total = 0.0
    with policy.evaluating():
        for place in range(len(context), tokens.shape[1]):
            hidden = (torch.arange(tokens.shape[1]) >= place)[None]
            where = (torch.arange(tokens.shape[1]) == place)[None]
            noisy = policy.corrupt(tokens, hidden)
            total += float(
                policy.token_logprobs(noisy, torch.ones_like(where), tokens, where).sum()
            )
    return total


# -- log-likelihoods -----------------------------------------------------------------------------


def test_one_token_scores_its_log_probability_where_it_is_hidden() -> None:
    pairs = [(context, continuation) for context, continuation in PAIRS if len(continuation) == 1]
    expected = [mean_field_sum(*pair) for pair in pairs]
    assert log_probs(model(), pairs) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("name", "oracle"), [("mean_field", mean_field_sum), ("left_to_right", chain_rule_sum)]
)
def test_scores_are_those_of_the_likelihood_that_is_named(name: str, oracle: Any) -> None:
    lm = model(likelihood=name)
    pairs = [pair for pair in PAIRS if not pair[0].endswith(" ")]
    assert log_probs(lm, pairs) == pytest.approx([oracle(*p) for p in pairs], abs=1e-3)


def exact_elbo(context: str, continuation: str) -> float:
    """Return Σ_m 1/m · mean over the sets of m hidden tokens of Σ log π: each set is tried."""
    policy, length = tiny(), len(continuation)
    tokens = torch.tensor([policy.tokenizer(context + continuation)["input_ids"]])
    total = 0.0
    with policy.evaluating():
        for size in range(1, length + 1):
            sums = []
            for hidden in itertools.combinations(range(length), size):
                where = torch.zeros_like(tokens, dtype=torch.bool)
                where[:, [len(context) + place for place in hidden]] = True
                noisy = policy.corrupt(tokens, where)
                real = torch.ones_like(where)
                sums.append(float(policy.token_logprobs(noisy, real, tokens, where).sum()))
            total += sum(sums) / len(sums) / size
    return total


def test_default_score_estimates_the_elbo_without_bias() -> None:
    pairs = [("4123004002300012=", "4123"), ("1+2=", "345")]
    lm = model(likelihood_parameters={"num_views": 2048}, batch_size=256)
    expected = [exact_elbo(*pair) for pair in pairs]
    assert log_probs(lm, pairs) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("name", ["elbo", "mean_field", "coupled", "block"])
@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_scores_do_not_depend_on_batches_or_order(name: str, batch_size: int) -> None:
    settings: dict[str, Any] = {"likelihood": name}
    if name == "mean_field":
        settings["likelihood_parameters"] = {"prompt_mask": 0.4}
    expected = log_probs(model(**settings), PAIRS)
    order = [4, 2, 6, 0, 1, 5, 3]
    found = log_probs(model(**settings, batch_size=batch_size), [PAIRS[i] for i in order])
    assert found == pytest.approx([expected[i] for i in order], abs=1e-3)


def test_seed_changes_views_and_so_the_estimate() -> None:
    pair = ("12 = ", "345")
    assert log_probs(model(seed=0), [pair]) != log_probs(model(seed=1), [pair])
    assert log_probs(model(seed=1), [pair]) == log_probs(model(seed=1), [pair])


def test_score_of_the_end_is_left_out_unless_it_is_asked_for() -> None:
    puzzle, answer = PUZZLES[0].prompt, "4123124312343412"
    scored = {"likelihood": "left_to_right"}
    (without,) = log_probs(model(**scored), [(puzzle, answer)])
    (with_end,) = log_probs(model(**scored, score_eos=True), [(puzzle, answer)])
    assert with_end < without


def test_empty_continuation_is_certain() -> None:
    asked = requests("loglikelihood", [("1 + 1", ""), ("1 ", "")])
    assert model().loglikelihood(asked, disable_tqdm=True) == [(0.0, True)] * 2


def test_spaces_at_the_end_of_a_context_are_scored_with_what_follows() -> None:
    assert log_probs(model(), [("12 =  ", "3")]) == log_probs(model(), [("12 =", "  3")])


def test_context_too_long_loses_its_beginning() -> None:
    tail = "1" * (tiny().max_length - 1)
    assert log_probs(model(), [("23" + tail, "4")]) == pytest.approx(
        [mean_field_sum(tail, "4")], abs=1e-3
    )


def test_continuation_longer_than_the_context_of_the_model_is_refused() -> None:
    with pytest.raises(DataError, match="513 tokens is longer than the model's context of 512"):
        log_probs(model(), [("1", "2" * 513)])


def test_is_greedy_says_what_the_sampler_writes_at_temperature_zero() -> None:
    greedy = texts(model(), [p.prompt for p in PUZZLES], max_gen_toks=16, until=[])
    asked = [(p.prompt, text) for p, text in zip(PUZZLES, greedy, strict=True)]
    other = [
        (prompt, text[:7] + ("1" if text[7] != "1" else "2") + text[8:]) for prompt, text in asked
    ]
    answers = model(batch_size=4).loglikelihood(
        requests("loglikelihood", [*asked, *other]), disable_tqdm=True
    )
    assert [is_greedy for _, is_greedy in answers] == [True] * 6 + [False] * 6


# -- rolling -------------------------------------------------------------------------------------


def rolling(lm: HarnessModel, *given: str) -> list[float]:
    asked = requests("loglikelihood_rolling", [(text,) for text in given])
    return lm.loglikelihood_rolling(asked, disable_tqdm=True)


def test_rolling_scores_a_text_behind_nothing() -> None:
    lm = model(likelihood="left_to_right", batch_size=4)
    assert rolling(lm, "12+3", "") == pytest.approx([chain_rule_sum("", "12+3"), 0.0], abs=1e-3)


def test_rolling_scores_every_token_of_a_long_text_once_behind_half_a_context() -> None:
    text = "1234" * 257
    lm = model(likelihood="mean_field")
    windows = [("", text[:512]), (text[256:512], text[512:768]), (text[512:768], text[768:1024])]
    windows.append((text[768:1024], text[1024:]))
    assert sum(len(target) for _, target in windows) == len(text)
    expected = sum(mean_field_sum(*window) for window in windows)
    assert rolling(lm, text) == pytest.approx([expected], rel=1e-4)


# -- generation ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["low_confidence", "threshold", "entropy_bound"])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_generation_is_the_samplers_own_whatever_shares_a_batch(name: str, batch_size: int) -> None:
    parameters = {"gen_length": 16, "temperature": 0.0}
    rollouts = SAMPLERS.build(name, parameters).sample(
        tiny(), tiny().encode(PUZZLES), num_rollouts=1, generator=torch.Generator()
    )
    lm = model(sampler=name, batch_size=batch_size)
    found = texts(lm, [p.prompt for p in reversed(PUZZLES)], until=["\n"], max_gen_toks=16)
    assert found[::-1] == [text for (text,) in rollouts.texts]


def test_requests_of_different_lengths_and_ends_are_answered_together() -> None:
    asked = [
        (p.prompt, {"max_gen_toks": 8 + i % 2, "until": str(i + 1)})
        for i, p in enumerate(PUZZLES[:4])
    ]
    together = model().generate_until(requests("generate_until", asked), disable_tqdm=True)
    alone = [
        model().generate_until(requests("generate_until", [each]), disable_tqdm=True)[0]
        for each in asked
    ]
    assert together == alone
    assert all(
        kwargs["until"] not in text for (_, kwargs), text in zip(asked, together, strict=True)
    )


def test_repeats_of_a_drawn_answer_differ_and_come_again_with_the_seed() -> None:
    kwargs = {"do_sample": True, "temperature": 2.0, "max_gen_toks": 12}
    first = texts(model(batch_size=3), ["1+2="] * 6, **kwargs)
    assert len(set(first)) > 1
    assert texts(model(batch_size=3), ["1+2="] * 6, **kwargs) == first
    assert texts(model(batch_size=3, seed=1), ["1+2="] * 6, **kwargs) != first


def test_text_ends_at_a_special_token_that_a_task_names() -> None:
    (text,) = texts(model(), ["1="], max_gen_toks=8, until=["<|mdm_mask|>"])
    assert "mdm_mask" not in text


@given(st.text("ab\n"), st.lists(st.text("ab\n", max_size=3), max_size=3))
def test_cut_text_holds_none_of_its_ends_and_is_the_longest_such_beginning(
    text: str, until: list[str]
) -> None:
    cut, ends = cut_text(text, until), [end for end in until if end]
    assert text.startswith(cut)
    assert not any(end in cut for end in ends)
    assert cut == text or any(text.startswith(end, len(cut)) for end in ends)


@pytest.mark.parametrize(
    ("asked", "temperature", "length"),
    [
        ({}, 0.0, 256),
        ({"max_gen_toks": 33}, 0.0, 64),
        ({"max_new_tokens": 32, "do_sample": False, "temperature": 0.7, "top_p": 0.9}, 0.0, 32),
        ({"do_sample": True, "top_k": 0, "num_beams": 1}, 1.0, 256),
        ({"temperature": 0.5}, 0.5, 256),
    ],
)
def test_generation_settings_of_a_task_are_read(
    asked: dict[str, Any], temperature: float, length: int
) -> None:
    request = read_generation(asked, HarnessSettings(sampler_parameters={"block_length": 32}))
    assert (request.parameters["temperature"], request.gen_length) == (temperature, length)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"num_beams": 4}, r"generation_kwargs\.num_beams: .*given 4; accepted: block_length, "),
        (
            {"do_sample": True, "top_p": 0.5},
            r"generation_kwargs\.top_p: sampler 'low_confidence' has",
        ),
        ({"step": 4}, "Did you mean 'steps'"),
        ({"max_gen_toks": 0}, r"sampler\.gen_length: "),
        ({"max_gen_toks": "many"}, r"sampler\.gen_length: "),
        ({"max_gen_toks": 512}, r"max_gen_toks: 512 tokens, .* leave no room"),
    ],
)
def test_generation_settings_that_the_sampler_lacks_are_refused(
    asked: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        texts(model(), ["1="], **asked)


@pytest.mark.parametrize("text", ["é", "\ud800", "1\x00"])
def test_character_that_the_tokenizer_lacks_is_named(text: str) -> None:
    with pytest.raises(DataError, match="request: the tokenizer has no token for "):
        log_probs(model(), [("1", text)])
    with pytest.raises(DataError, match="request: the tokenizer has no token for "):
        texts(model(), [text], max_gen_toks=4)


def test_chat_template_is_the_tokenizers(templated: LladaPolicy) -> None:
    lm = HarnessModel(templated)
    history = [{"role": "user", "content": "1+1"}]
    assert lm.apply_chat_template(history) == "<user>1+1</><assistant>"
    begun = [*history, {"role": "assistant", "content": "2"}]
    continued = lm.apply_chat_template(begun, add_generation_prompt=False)
    assert continued == "<user>1+1</><assistant>2"
    assert lm.chat_template(True) == TEMPLATE


def test_chat_template_that_is_not_there_is_refused() -> None:
    with pytest.raises(
        ConfigError, match="apply_chat_template: the tokenizer has no chat template"
    ):
        model().apply_chat_template([{"role": "user", "content": "1"}])


@pytest.mark.parametrize("name", ["path", "trace"])
def test_likelihood_that_needs_a_generated_text_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"likelihood: '{name}' needs to know how"):
        model(likelihood=name)


# -- the harness itself --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a task to generate and a task to choose, both about the same puzzles."""
    directory = tmp_path_factory.mktemp("tasks")
    rows = [
        {
            "puzzle": p.prompt,
            "answer": p.columns["solution"],
            "choices": ["4123124312343412", "1234"],
        }
        for p in PUZZLES
    ]
    data = directory / "puzzles.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    common = {
        "dataset_path": "json",
        "dataset_kwargs": {
            "data_files": {"test": str(data)},
            "cache_dir": str(directory / "cache"),
        },
        "test_split": "test",
        "doc_to_text": "{{puzzle}}",
        "target_delimiter": "",
    }
    generate = {
        "task": "tiny_generate",
        "output_type": "generate_until",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 16, "do_sample": False},
        "metric_list": [{"metric": "exact_match"}],
    }
    choose = {
        "task": "tiny_choose",
        "output_type": "multiple_choice",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": 0,
        "metric_list": [{"metric": "acc"}],
    }
    for task in (generate, choose):
        (directory / f"{task['task']}.yaml").write_text(yaml.safe_dump(common | task))
    return directory


def test_tasks_run_and_say_what_direct_calls_say(tasks: Path) -> None:
    settings = HarnessSettings(batch_size=5, likelihood_parameters={"num_views": 8})
    found = evaluate_tasks(
        tiny(),
        ["tiny_generate", "tiny_choose"],
        settings,
        include_path=tasks,
        include_defaults=False,
        bootstrap_iters=0,
    )
    assert found is not None
    written = [sample["resps"][0][0] for sample in found["samples"]["tiny_generate"]]
    direct = texts(model(), [p.prompt for p in PUZZLES], max_gen_toks=16)
    assert written == direct
    right = [text == p.columns["solution"] for text, p in zip(direct, PUZZLES, strict=True)]
    assert found["results"]["tiny_generate"]["exact_match,none"] == sum(right) / len(right)
    scores = [
        [choice[0][0] for choice in sample["resps"]] for sample in found["samples"]["tiny_choose"]
    ]
    pairs = [(p.prompt, choice) for p in PUZZLES for choice in ("4123124312343412", "1234")]
    again = log_probs(HarnessModel(tiny(), settings), pairs)
    assert [score for pair in scores for score in pair] == pytest.approx(again, abs=1e-3)
    assert found["config"]["likelihood_parameters"] == {"num_views": 8}


def test_limit_and_chat_template_reach_the_model(tasks: Path, templated: LladaPolicy) -> None:
    found = simple_evaluate(
        model=HarnessModel(templated),
        tasks=["tiny_generate"],
        task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
        limit=1,
        apply_chat_template=True,
        bootstrap_iters=0,
    )
    (sample,) = found["samples"]["tiny_generate"]
    assert sample["arguments"][0][0] == f"<user>{PUZZLES[0].prompt}</><assistant>"


def test_unknown_task_is_named_with_the_nearest(tasks: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"has no task 'tiny_generat'.* Did you mean 'tiny_generate'"
    ):
        evaluate_tasks(tiny(), ["tiny_generat"], include_path=tasks, include_defaults=False)


@pytest.fixture
def few_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the command leave the harness's own tasks alone, which take long to find."""
    manager = partial(TaskManager, include_defaults=False)
    monkeypatch.setattr("lm_eval.tasks.TaskManager", manager)


def test_command_line_is_the_harness_with_this_model(
    tasks: Path, few_tasks: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = f"--tasks tiny_generate --include_path {tasks} --limit 2 --output_path {tmp_path}"
    arguments = "--model_args sampler=threshold,sampler.block_length=8,batch_size=2"
    assert main([*options.split(), *arguments.split()]) == 0
    assert "tiny_generate" in capsys.readouterr().out
    (file,) = tmp_path.rglob("results_*.json")
    config = json.loads(file.read_text())["config"]
    assert config["model"] == "dmpo"
    assert config["sampler_parameters"] == {"block_length": 8}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("sampler=thresold", "Did you mean 'threshold'"),
        ("likelihood.num_view=3", r"likelihood\.num_view: unknown key"),
        ("batch=3", r"model_args\.batch: unknown key"),
        ("batch_size=0", r"model_args\.batch_size: must be greater than"),
        ("policy=lada", "Did you mean 'llada'"),
        ("model=/nowhere/at/all", "/nowhere/at/all"),
    ],
)
def test_wrong_model_args_are_named(arguments: str, message: str) -> None:
    with pytest.raises((ConfigError, CheckpointError), match=message):
        HarnessModel.create_from_arg_string(arguments)


def test_command_line_says_in_one_line_what_is_wrong(
    tasks: Path, few_tasks: None, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--tasks", "tiny_choose", "--include_path", str(tasks)]
    assert main([*options, "--model_args", "sampler=thresold"]) == 2
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("dmpo: error: ")]
    assert "Did you mean 'threshold'" in line


def test_library_without_lm_eval_says_which_extra_has_it() -> None:
    code = (
        "import sys; sys.modules['lm_eval'] = None\n"
        "import dmpo, dmpo.evaluation.requests\n"
        "import dmpo.evaluation.harness\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    *_, line = run.stderr.strip().splitlines()
    assert line.startswith("dmpo.errors.ConfigError: dmpo.evaluation.harness: lm-eval 0.4.13")
    assert line.endswith("pip install 'dmpo-dllm[eval]'.")
