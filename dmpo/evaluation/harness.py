"""Any policy as a model of lm-evaluation-harness (the extra ``eval``), so that its tasks run on it.

In Python, ``lm_eval.simple_evaluate(model=HarnessModel(policy), tasks=[…])`` or
:func:`evaluate_tasks`. On the command line, ``python -m dmpo.evaluation.harness`` takes what
``lm-eval`` takes, with ``dmpo`` among the models: the library's own command only knows the models
that are listed in its code, and imports no others.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from typing import Any, final

import torch
from jaxtyping import Bool, Int
from pydantic import ValidationError
from torch import Tensor, distributed

from dmpo.errors import ConfigError, DataError, DmpoError, nearest_name
from dmpo.evaluation.requests import (
    GenerationRequest,
    HarnessSettings,
    RequestReader,
    build_likelihood,
    cut_text,
    read_generation,
)
from dmpo.evaluation.scoring import (
    ScoredText,
    chunks,
    greedy_matches,
    length_batches,
    named_generator,
    padded_prompts,
    text_log_probs,
)
from dmpo.policies.base import DiffusionPolicy
from dmpo.registry import POLICIES, SAMPLERS
from dmpo.settings import first_validation_message

try:
    from lm_eval.api.instance import Instance
    from lm_eval.api.model import LM
    from lm_eval.api.registry import model_registry
    from tqdm import tqdm
except ImportError as error:
    raise ConfigError(
        f"dmpo.evaluation.harness: lm-eval 0.4.13 or later is needed ({error}); install it with "
        "pip install 'dmpo-dllm[eval]'."
    ) from None

__all__ = ["HarnessModel", "evaluate_tasks", "main"]

logger = logging.getLogger(__name__)

NAME = "dmpo"
"""What the harness calls the model."""
TURN_ENDS = ("<|eot_id|>", "<|im_end|>")
"""Tokens that end an answer in known chat templates; what follows is not the answer."""


@final
class HarnessModel(LM):  # type: ignore[misc]  # the library carries no types
    """A policy behind lm-evaluation-harness's interface.

    *Text* reaches the policy as the harness gives it. A chat template is put around it where the
    harness is told to (``apply_chat_template``), never by itself. Special tokens that the
    tokenizer puts around a prompt are added, unless the text begins with them.

    *Log-likelihoods* are those of a :class:`~dmpo.likelihoods.base.Likelihood`. The continuation's
    own tokens are the whole canvas: its length is given, and no EOS is scored unless ``score_eos``
    says so (then one is appended). An ELBO is a lower bound, estimated from random views. Their
    seed is made of ``seed`` and the context, so neither order nor batches change a score, and
    continuations of one context that are equally long are compared on the same views.

    ``is_greedy`` says whether greedy decoding gives the continuation where it is told the length:
    one block of just these tokens, one token a pass, the most confident first (what LLaDA's
    evaluation does). A canvas of another length, or several tokens a pass, may give another text.

    *Rolling* log-likelihoods score a whole text without a prompt, as in pretraining: all its
    tokens are one canvas. A text longer than the context is scored in windows: the first is as
    long as the context, each later one half as long, behind the half before it; every token
    is scored once.

    *Generation* goes through a sampler. Its canvas has ``max_gen_toks`` tokens, rounded up to whole
    blocks; a text is cut at the first of ``until`` afterwards. ``do_sample: false``, which most
    tasks say, is temperature 0. Where the sampler draws, a text depends on what shares its batch,
    but not on the order of requests. A context too long for the model loses its beginning.

    Under ``torchrun`` every process answers its share, with a copy of the policy each.

    Args:
        policy: The policy, on its device.
        settings: How requests are answered.

    Raises:
        ConfigError: If sampler or likelihood refuse their settings, or the likelihood needs to
            know how a text was generated.
    """

    def __init__(self, policy: DiffusionPolicy, settings: HarnessSettings | None = None) -> None:
        """Check the settings and find out which process this is."""
        super().__init__()
        settings = settings or HarnessSettings()
        self.policy = policy
        self.settings = settings
        self.tokenizer = policy.tokenizer
        self._reader = RequestReader(
            self.tokenizer,
            max_length=policy.max_length,
            ending=(policy.eos_token_id,) if settings.score_eos else (),
        )
        self._likelihood = build_likelihood(settings)
        read_generation({}, settings)
        added = self.tokenizer.get_added_vocab()
        ends = {policy.eos_token_id, self.tokenizer.eos_token_id, *map(added.get, TURN_ENDS)}
        self._stops = {end for end in ends if end is not None}
        self._rank, self._world_size = _process()

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None
    ) -> HarnessModel:
        """Build policy and model from the harness's ``model_args``.

        Args:
            arg_dict: ``policy`` (llada), ``model`` (short for ``policy.model``), ``sampler``,
                ``likelihood``, ``policy.KEY``, ``sampler.KEY``, ``likelihood.KEY``, and the fields
                of :class:`HarnessSettings`.
            additional_config: What the harness adds: ``batch_size`` and ``device`` count.

        Raises:
            ConfigError: If an argument is unknown or wrong.
        """
        given, added = dict(arg_dict), additional_config or {}
        sections = {
            name: {
                key.partition(".")[2]: given.pop(key)
                for key in list(given)
                if key.startswith(f"{name}.")
            }
            for name in ("policy", "sampler", "likelihood")
        }
        name = str(given.pop("policy", "llada"))
        if "model" in given:
            sections["policy"]["model"] = given.pop("model")
        batch_size = str(given.pop("batch_size", added.get("batch_size") or ""))
        if batch_size and not batch_size.startswith("auto"):
            given["batch_size"] = batch_size
        for section in ("sampler", "likelihood"):
            given.setdefault(f"{section}_parameters", sections[section])
        try:
            settings = HarnessSettings.model_validate(given)
        except ValidationError as error:
            raise ConfigError(
                first_validation_message(error, HarnessSettings, prefix="model_args")
            ) from None
        build_likelihood(settings)  # what is wrong shows before weights are read
        read_generation({}, settings)
        policy = POLICIES.build(name, sections["policy"])
        policy.module.to(_device(added.get("device")))
        return cls(policy, settings)

    @classmethod
    def create_from_arg_string(
        cls, arg_string: str, additional_config: dict[str, Any] | None = None
    ) -> HarnessModel:
        """Build policy and model from ``key=value,key=value``."""
        from lm_eval.utils import simple_parse_args_string

        return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

    # -- what the harness asks ------------------------------------------------------------------

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """Return log p(continuation | context) in nats, and whether it is the greedy one.

        Raises:
            DataError: If a text cannot be expressed, or a continuation is longer than the context
                of the model.
        """
        rows = [self._reader.pair(*request.args) for request in requests]
        answers: list[tuple[float, bool]] = [(0.0, True)] * len(rows)  # the empty continuation
        with self._progress("loglikelihood", len(rows), disable_tqdm) as bar:
            bar.update(sum(not row.target for row in rows))
            for batch in length_batches(rows, self.settings.batch_size):
                part = [rows[i] for i in batch]
                matches = greedy_matches(self.policy, part)
                for i, score, is_greedy in zip(batch, self._scores(part), matches, strict=True):
                    answers[i] = (score, is_greedy)
                    self.cache_hook.add_partial("loglikelihood", requests[i].args, answers[i])
                bar.update(len(batch))
        return answers

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """Return log p(text) in nats, with no context before it.

        Raises:
            DataError: If a text cannot be expressed.
        """
        windows = [
            (index, window)
            for index, request in enumerate(requests)
            for window in self._reader.windows(request.args[0])
        ]
        totals = [0.0] * len(requests)
        with self._progress("loglikelihood_rolling", len(windows), disable_tqdm) as bar:
            for batch in length_batches(
                [window for _, window in windows], self.settings.batch_size
            ):
                scores = self._scores([windows[i][1] for i in batch])
                for i, score in zip(batch, scores, strict=True):
                    totals[windows[i][0]] += score
                bar.update(len(batch))
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Return an answer to each context, up to the first of its ``until``.

        Raises:
            DataError: If a context cannot be expressed.
            ConfigError: If a request asks for what the sampler does not do.
        """
        plans = [read_generation(request.args[1], self.settings) for request in requests]
        contexts = self._contexts([request.args[0] for request in requests], plans)
        kinds: dict[str, list[int]] = {}
        for index in sorted(range(len(plans)), key=lambda i: (-len(contexts[i]), contexts[i])):
            kind = json.dumps(plans[index].parameters, sort_keys=True, default=str)
            kinds.setdefault(kind, []).append(index)
        answers = [""] * len(requests)
        with self._progress("generate_until", len(requests), disable_tqdm) as bar:
            for kind in sorted(kinds):
                for number, batch in enumerate(chunks(kinds[kind], self.settings.batch_size)):
                    texts = self._generated(
                        [contexts[i] for i in batch],
                        [plans[i] for i in batch],
                        named_generator(self.settings.seed, "generate", kind, str(number)),
                    )
                    for i, text in zip(batch, texts, strict=True):
                        answers[i] = cut_text(text, plans[i].until)
                        self.cache_hook.add_partial("generate_until", requests[i].args, answers[i])
                    bar.update(len(batch))
        return answers

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Return a conversation as the prompt that the tokenizer's chat template makes of it.

        Raises:
            ConfigError: If there is no template, or it fails.
        """
        self.chat_template(True)
        try:
            text: str = self.tokenizer.apply_chat_template(
                chat_history,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
            )
        except Exception as error:  # a template is a program, and raises whatever it likes
            raise ConfigError(
                "apply_chat_template: the tokenizer's chat template fails on a conversation of "
                f"{', '.join(message['role'] for message in chat_history)}: "
                f"{type(error).__name__}: {error}"
            ) from error
        return text

    def chat_template(self, chat_template: bool | str = False) -> str:
        """Return the tokenizer's chat template; nothing if none is to be applied.

        Raises:
            ConfigError: If there is none, or it is asked for by a name.
        """
        if not chat_template:
            return ""
        template = self.tokenizer.chat_template
        if not isinstance(template, str) or isinstance(chat_template, str):
            raise ConfigError(
                "apply_chat_template: the tokenizer has no chat template of this name or at all; "
                "leave the option out, or give it without a name."
            )
        return template

    @property
    def tokenizer_name(self) -> str:
        """What prepared requests are filed under."""
        return str(self.tokenizer.name_or_path).replace("/", "__")

    @property
    def eot_token_id(self) -> int:
        """The token that ends an answer."""
        return self.policy.eos_token_id

    @property
    def max_length(self) -> int:
        """The model's context, in tokens."""
        return self.policy.max_length

    def get_model_info(self) -> dict[str, Any]:
        """Return what is kept with the results."""
        return {"policy": self.policy.describe(), **self.settings.model_dump(mode="json")}

    # -- processes ------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """Where tensors lie that processes exchange."""
        is_cpu = self.world_size > 1 and distributed.get_backend() == "gloo"
        return torch.device("cpu") if is_cpu else self.policy.device

    def all_gather(self, tensor: Tensor) -> Tensor:
        """Return the tensors of all processes, one after the other."""
        if self.world_size == 1:
            return tensor
        parts = [torch.empty_like(tensor) for _ in range(self.world_size)]
        distributed.all_gather(parts, tensor)
        return torch.cat([part.reshape(-1) if part.dim() == 0 else part for part in parts])

    def gather_object(self, obj: Any, dst: int = 0) -> list[Any] | None:
        """Return the objects of all processes on one of them, None on the others."""
        if self.world_size == 1:
            return [obj]
        parts = [None] * self.world_size if self.rank == dst else None
        distributed.gather_object(obj, parts, dst=dst)
        return parts

    def barrier(self) -> None:
        """Wait for the other processes."""
        if self.world_size > 1:
            distributed.barrier()

    # -- the policy at work ---------------------------------------------------------------------

    def _contexts(
        self, texts: Sequence[str], plans: Sequence[GenerationRequest]
    ) -> list[tuple[int, ...]]:
        """Return contexts without what the model has no room for before the answer."""
        contexts = []
        for text, plan in zip(texts, plans, strict=True):
            room = self.max_length - plan.gen_length
            if room < 1:
                raise ConfigError(
                    f"generation_kwargs.max_gen_toks: {plan.gen_length} tokens, in whole blocks, "
                    f"leave no room for a prompt in the model's context of {self.max_length}."
                )
            ids = self._reader.context(text)
            if not ids:
                raise DataError("request: nothing to answer; the context is empty.")
            if len(ids) > room:
                cut = (
                    f"a context of {len(ids)} tokens loses its beginning: there is room for {room}"
                )
                logger.warning(cut)
            contexts.append(ids[max(0, len(ids) - room) :])
        return contexts

    def _generated(
        self,
        contexts: Sequence[tuple[int, ...]],
        plans: Sequence[GenerationRequest],
        generator: torch.Generator,
    ) -> list[str]:
        sampler = SAMPLERS.build(self.settings.sampler, plans[0].parameters)
        prompts = padded_prompts(contexts, self.policy.pad_token_id)
        with self.policy.evaluating():
            rollouts = sampler.sample(self.policy, prompts, num_rollouts=1, generator=generator)
        completions = rollouts.completions.flatten(0, 1).clone()
        added = self.tokenizer.get_added_vocab()
        for row, plan in zip(completions, plans, strict=True):
            stops = self._stops | {added[text] for text in plan.until if text in added}
            row[_from_first(row, stops)] = self.policy.eos_token_id
        return self.policy.decode(completions)

    def _scores(self, rows: Sequence[ScoredText]) -> list[float]:
        return text_log_probs(
            self.policy,
            self._likelihood,
            rows,
            batch_size=self.settings.batch_size,
            seed=self.settings.seed,
        )

    def _progress(self, name: str, total: int, is_disabled: bool) -> Any:
        return tqdm(total=total, desc=name, disable=is_disabled or self.rank > 0)


def evaluate_tasks(
    policy: DiffusionPolicy,
    tasks: Sequence[str],
    settings: HarnessSettings | None = None,
    *,
    include_path: str | os.PathLike[str] | None = None,
    include_defaults: bool = True,
    **options: Any,
) -> dict[str, Any] | None:
    """Run tasks of the harness on a policy.

    Args:
        policy: The policy, on its device.
        tasks: Names of tasks, groups or tags.
        settings: How requests are answered.
        include_path: A directory with tasks of the user's own, as YAML.
        include_defaults: Whether the harness's own tasks can be named, too; reading where they
            are takes many seconds.
        options: Handed to ``lm_eval.simple_evaluate``: ``limit``, ``num_fewshot``,
            ``apply_chat_template``, ``gen_kwargs``, ``log_samples``, …

    Returns:
        The harness's results (``results``, ``samples``, ``config``, …); None on every process
        but the first.

    Raises:
        ConfigError: If there is no such task, or a setting is wrong.
    """
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    model = HarnessModel(policy, settings)
    path = None if include_path is None else os.fspath(include_path)
    manager = TaskManager(include_path=path, include_defaults=include_defaults)
    for name in tasks:
        if not manager.match_tasks([name]):
            near = nearest_name(name, manager.all_tasks)
            hint = f" Did you mean {near!r}?" if near else ""
            raise ConfigError(
                f"tasks: lm-evaluation-harness {version('lm-eval')} has no task {name!r}; "
                f"`python -m {__spec__.name} ls tasks` lists them.{hint}"
            )
    results: dict[str, Any] | None = simple_evaluate(
        model=model, tasks=list(tasks), task_manager=manager, **options
    )
    return results


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``lm-eval``'s own command line, with ``dmpo`` as the model unless another is named.

    Returns:
        The exit code: that of the error if one of the library's own is met, else 0.
    """
    from lm_eval.__main__ import cli_evaluate

    given = list(sys.argv[1:] if arguments is None else arguments)
    names = {argument.partition("=")[0] for argument in given}
    is_run = bool(given) and given[0] not in ("ls", "validate", "-h", "--help")
    if is_run and not names & {"--model", "-M", "--config", "-C"}:
        given += ["--model", NAME]
    before, sys.argv = sys.argv, ["lm-eval", *given]
    try:
        cli_evaluate()
    except DmpoError as error:
        print(f"dmpo: error: {' '.join(str(error).split())}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    finally:
        sys.argv = before
        if distributed.is_initialized():
            distributed.destroy_process_group()
    return 0


def _from_first(row: Int[Tensor, " D"], stops: Iterable[int]) -> Bool[Tensor, " D"]:
    """Return True from the first of some tokens on."""
    is_stop = torch.isin(row, torch.tensor(sorted(stops), device=row.device))
    return is_stop.cumsum(0) > 0


def _process() -> tuple[int, int]:
    """Return rank and number of the processes; under ``torchrun`` they are connected first."""
    if not distributed.is_available():
        return 0, 1
    if not distributed.is_initialized() and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        distributed.init_process_group("gloo")  # only figures and texts are exchanged
    if not distributed.is_initialized():
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()


def _device(name: str | None) -> torch.device:
    # The harness's command says cuda:0 where its user says nothing, on any machine.
    if name not in (None, "cuda", "cuda:0"):
        return torch.device(str(name))
    found = torch.accelerator.current_accelerator(check_available=True)
    if found is None or found.type == "mps":  # which has no float64, that views are drawn in
        return torch.device("cpu")
    return torch.device(found.type, int(os.environ.get("LOCAL_RANK", "0")))


if NAME not in model_registry:
    model_registry.register(NAME, target="dmpo.evaluation.harness:HarnessModel")


if __name__ == "__main__":
    raise SystemExit(main())
