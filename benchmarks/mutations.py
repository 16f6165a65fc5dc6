"""Make small deliberate errors in the mathematics, one at a time, and see whether the tests notice.

    python benchmarks/mutations.py --name mutations       # all of them, two at a time
    python benchmarks/mutations.py --only 3 17            # these alone, with pytest's last lines

Each error is made in a copy of the repository; the tests of its room run first, then those of
the other rooms, up to the first failure. An error that no test notices is a hole in the tests. The
copy without an error comes first: all of its tests have to pass.
Prints a Markdown table, and writes it with command, machine and versions to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from provenance import provenance

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).parent / "results"
ROOMS = ("diffusion", "likelihoods", "weights", "objectives", "samplers")


@dataclass(frozen=True)
class Mutation:
    """One error: what is wrong about it, and the edit that makes it."""

    error: str
    file: str
    old: str
    new: str

    @property
    def room(self) -> str:
        return self.file.split("/")[0]


MUTATIONS = (
    # diffusion: likelihood, masking, tilting, losses
    Mutation(
        "D/m in place of (D+1)/m where m is uniform on 0..D",
        "diffusion/likelihood.py",
        "return _over_sizes(hidden, (lengths + 1)[..., None, None], sizes)",
        "return _over_sizes(hidden, lengths[..., None, None], sizes)",
    ),
    Mutation(
        "replicates added up in place of their mean",
        "diffusion/likelihood.py",
        "factor = numerator.float() / (sizes.clamp(min=1).float() * hidden.shape[-2])",
        "factor = numerator.float() / sizes.clamp(min=1).float()",
    ),
    Mutation(
        "standard error not divided by the root of the number of replicates",
        "diffusion/likelihood.py",
        "return estimates.std(dim=-1, correction=1) / math.sqrt(num_replicates)",
        "return estimates.std(dim=-1, correction=1)",
    ),
    Mutation(
        "antithetic pairs taken for independent replicates",
        "diffusion/likelihood.py",
        "estimates = torch.stack(estimates.chunk(2, dim=-1)).mean(0)",
        "estimates = estimates.clone()",
    ),
    Mutation(
        "off by one in m: D in place of D + 1 sizes",
        "diffusion/masking.py",
        "counts = (levels * (lengths.unsqueeze(-1) + 1)).floor().long()",
        "counts = (levels * lengths.unsqueeze(-1)).floor().long()",
    ),
    Mutation(
        "one more token hidden than drawn",
        "diffusion/masking.py",
        "return ranks < counts.unsqueeze(-1)",
        "return ranks <= counts.unsqueeze(-1)",
    ),
    Mutation(
        "complement taken over the whole canvas, not over the tokens that count",
        "diffusion/masking.py",
        "return torch.cat([hidden, scored.unsqueeze(-2) & ~hidden], dim=-2)",
        "return torch.cat([hidden, ~hidden], dim=-2)",
    ),
    Mutation(
        "strata without their random offset",
        "diffusion/masking.py",
        "offset = torch.rand(*shape, 1, generator=generator, dtype=torch.float64, device=device)",
        "offset = torch.full((*shape, 1), 0.5, dtype=torch.float64, device=device)",
    ),
    Mutation(
        "log-ratio with the wrong sign",
        "diffusion/tilting.py",
        "return rewards / alpha + log_ratio",
        "return rewards / alpha - log_ratio",
    ),
    Mutation(
        "reward times alpha in place of reward over alpha",
        "diffusion/tilting.py",
        "return rewards / alpha + log_ratio",
        "return rewards * alpha + log_ratio",
    ),
    Mutation(
        "softmax over prompts in place of the rollouts of one",
        "diffusion/tilting.py",
        "return torch.softmax(log_weights, dim=-1) * log_weights.shape[-1]",
        "return torch.softmax(log_weights, dim=0) * log_weights.shape[0]",
    ),
    Mutation(
        "linear link centred over the buffer in place of the group",
        "diffusion/tilting.py",
        "return 1 + log_weights - log_weights.mean(dim=-1, keepdim=True)",
        "return 1 + log_weights - log_weights.mean()",
    ),
    Mutation(
        "effective sample size without the square of the sum",
        "diffusion/tilting.py",
        "share = weights.mean(-1).square() /",
        "share = weights.mean(-1) /",
    ),
    Mutation(
        "bisection that keeps the wrong half",
        "diffusion/tilting.py",
        "low, high = torch.where(good, middle, low), torch.where(good, high, middle)",
        "low, high = torch.where(good, low, middle), torch.where(good, middle, high)",
    ),
    Mutation(
        "leave-one-out mean scaled by (N-1)/N in place of N/(N-1)",
        "diffusion/tilting.py",
        "advantages = centred * size / (size - 1) if leave_one_out else centred",
        "advantages = centred * (size - 1) / size if leave_one_out else centred",
    ),
    Mutation(
        "loss with the wrong sign",
        "diffusion/losses.py",
        "return -(weights * log_likelihood / lengths.clamp(min=1)).sum() / num_rows",
        "return (weights * log_likelihood / lengths.clamp(min=1)).sum() / num_rows",
    ),
    Mutation(
        "loss over the rows of the micro-batch in place of the buffer",
        "diffusion/losses.py",
        "return -(weights * log_likelihood / lengths.clamp(min=1)).sum() / num_rows",
        "return -(weights * log_likelihood / lengths.clamp(min=1)).sum() / len(weights)",
    ),
    Mutation(
        "the larger of the clipped and the plain surrogate",
        "diffusion/losses.py",
        "return torch.minimum(ratio * advantage, clipped * advantage)",
        "return torch.maximum(ratio * advantage, clipped * advantage)",
    ),
    Mutation(
        "k3 divergence with policy and reference exchanged",
        "diffusion/losses.py",
        "difference = reference_log_probs - log_probs",
        "difference = log_probs - reference_log_probs",
    ),
    # likelihoods
    Mutation(
        "mask inverted: visible tokens hidden, hidden ones shown",
        "likelihoods/base.py",
        "noisy = policy.corrupt(tokens, torch.cat([prompt_hidden, hidden], dim=1))",
        "noisy = policy.corrupt(tokens, torch.cat([prompt_hidden, ~hidden], dim=1))",
    ),
    Mutation(
        "padding attended to, as in the official code",
        "likelihoods/base.py",
        "attention = torch.cat([prompt_mask, ",
        "attention = torch.cat([torch.ones_like(prompt_mask), ",
    ),
    Mutation(
        "mean over views in place of their weighted sum",
        "likelihoods/base.py",
        "return (coefficient * token_log_probs).sum(dim=(-2, -1))",
        "return (coefficient * token_log_probs).mean(dim=-2).sum(-1)",
    ),
    Mutation(
        "buffer read at temperature 1, whatever it was drawn at",
        "likelihoods/path.py",
        "            temperature=rollouts.temperature,\n",
        "",
    ),
    Mutation(
        "path that shows the tokens of the step itself",
        "likelihoods/path.py",
        "hidden=steps >= step,",
        "hidden=steps > step,",
    ),
    Mutation(
        "one-step likelihood that leaves the canvas behind the answer visible",
        "likelihoods/mean_field.py",
        "hidden=torch.ones_like(scored),",
        "hidden=scored,",
    ),
    Mutation(
        "views drawn over the whole canvas although the answer alone counts",
        "likelihoods/base.py",
        'return answer_mask if eos == "answer" else torch.ones_like(answer_mask)',
        "return torch.ones_like(answer_mask)",
    ),
    # weights
    Mutation(
        "individual baseline without the minus in front of the reward",
        "weights/baselines.py",
        "estimator.log_weights(-rewards, log_ratio, estimated.coefficient)",
        "estimator.log_weights(rewards, log_ratio, estimated.coefficient)",
    ),
    Mutation(
        "mean baseline of 0 in place of the link at 0",
        "weights/baselines.py",
        "return estimator.link(torch.zeros_like(rewards))",
        "return torch.zeros_like(rewards)",
    ),
    Mutation(
        "model baseline without its stop-gradient",
        "weights/baselines.py",
        "return estimator.link(model_log_ratio.detach())",
        "return estimator.link(model_log_ratio)",
    ),
    Mutation(
        "coefficient not applied at alpha 0",
        "weights/target.py",
        "return proximal_log_weights(config.eta * rewards, coefficient)",
        "return config.eta * rewards",
    ),
    Mutation(
        "adaptive coefficient found but not used",
        "weights/tilted_adaptive.py",
        "log_weights = self.log_weights(rewards, log_ratio, coefficient)",
        "log_weights = full",
    ),
    Mutation(
        "effective sample size of the log weights",
        "weights/tilted.py",
        "ess=effective_sample_size(values)",
        "ess=effective_sample_size(log_weights)",
    ),
    # objectives
    Mutation(
        "baseline added in place of subtracted",
        "objectives/dmpo.py",
        "real = weights.values - parts.baseline.strength * baseline",
        "real = weights.values + parts.baseline.strength * baseline",
    ),
    Mutation(
        "strength of the baseline forgotten",
        "objectives/dmpo.py",
        "real = weights.values - parts.baseline.strength * baseline",
        "real = weights.values - baseline",
    ),
    Mutation(
        "log p_v - log p_ref in place of log p_ref - log p_v",
        "objectives/dmpo.py",
        "difference = self._log_probs(policy, rollouts, views) - behaviour",
        "difference = behaviour - self._log_probs(policy, rollouts, views)",
    ),
    Mutation(
        "reference evaluated with the weights of the policy",
        "objectives/dmpo.py",
        "        with policy.reference():\n            difference",
        "        if True:\n            difference",
    ),
    Mutation(
        "model baseline frozen at the first update",
        "objectives/dmpo.py",
        "        if update == 0:\n",
        "        if update >= 0:\n",
    ),
    Mutation(
        "loss on the same views at every update although fresh ones are asked for",
        "objectives/dmpo.py",
        "            views = parts.likelihood.views(rollouts, generator)\n        baseline",
        "            views = parts.likelihood.views(rollouts, torch.Generator().manual_seed(0))\n"
        "        baseline",
    ),
    Mutation(
        "views of the first update at every update of diffu-GRPO",
        "objectives/diffu_grpo.py",
        "index = update if len(experience.views) > 1 else 0",
        "index = 0",
    ),
    Mutation(
        "divergence subtracted from the loss",
        "objectives/diffu_grpo.py",
        "loss = loss + config.beta * divergence",
        "loss = loss - config.beta * divergence",
    ),
    Mutation(
        "rows and weights of a buffer in different orders",
        "objectives/rows.py",
        "weights=weights.flatten(),",
        "weights=weights.T.flatten(),",
    ),
    # samplers
    Mutation(
        "log-probabilities of untempered logits, as in the official code",
        "samplers/draw.py",
        "scaled = logits if temperature == 1 else logits / temperature",
        "scaled = logits",
    ),
    Mutation(
        "one uniform number for the run and for the token inside it",
        "samplers/draw.py",
        "_first_above(inside, within)[0]",
        "_first_above(inside, uniform)[0]",
    ),
    Mutation(
        "least confident tokens revealed first",
        "samplers/low_confidence.py",
        "best = ranked.topk(min(count, ranked.shape[1]), dim=1).indices",
        "best = ranked.topk(min(count, ranked.shape[1]), dim=1, largest=False).indices",
    ),
    Mutation(
        "remainder of the schedule on the last steps",
        "samplers/schedule.py",
        "share + (step < remainder)",
        "share + (step >= num_steps - remainder)",
    ),
    Mutation(
        "one order for all rows",
        "samplers/block_loop.py",
        "return keys.argsort(dim=1).argsort(dim=1)",
        "return keys[:1].expand_as(keys).argsort(dim=1).argsort(dim=1)",
    ),
    Mutation(
        "one more position revealed than the schedule says",
        "samplers/random_order.py",
        "return (state.order >= first) & (state.order < end)",
        "return (state.order >= first) & (state.order <= end)",
    ),
    Mutation(
        "answer ends before its first EOS",
        "samplers/canvas.py",
        "return is_eos.cumsum(-1) - is_eos.long() == 0",
        "return is_eos.cumsum(-1) == 0",
    ),
    Mutation(
        "guidance towards the prompt-free logits",
        "samplers/forward.py",
        "return unconditional + (self._scale + 1) * (conditional - unconditional)",
        "return conditional + (self._scale + 1) * (unconditional - conditional)",
    ),
    Mutation(
        "steps of a path counted from the block's start",
        "samplers/block_loop.py",
        "revealed=revealed, forward=self.num_forwards",
        "revealed=revealed, forward=state.step",
    ),
    Mutation(
        "rows end with the first block, whether it has an EOS or not",
        "samplers/canvas.py",
        "rest = ended[:, None] & self.hidden",
        "rest = self.hidden.clone()",
    ),
    Mutation(
        "threshold that spares the most confident token",
        "samplers/threshold.py",
        "return ((confidence >= threshold) & valid) | most_confident(confidence, valid, 1)",
        "return ((confidence >= threshold) & valid) | ~(confidence >= threshold).any(1)[:, None]",
    ),
    Mutation(
        "dynamic factor over n in place of n + 1",
        "samplers/factor.py",
        "passes = ranked >= 1 - self._factor / (rank + 1)",
        "passes = ranked >= 1 - self._factor / rank",
    ),
    Mutation(
        "bound on all entropies, the largest among them",
        "samplers/entropy_bound.py",
        "before = ranked.double().cumsum(dim=1).roll(1, dims=1)",
        "before = ranked.double().cumsum(dim=1)",
    ),
    Mutation(
        "shadow that sees the token it is to verify",
        "samplers/wino.py",
        "visible[:, length:, start:end] &= ~shadowed",
        "visible[:, length:, start:end] |= shadowed",
    ),
    Mutation(
        "cache that is never filled again",
        "samplers/forward.py",
        "if step.step == 0:",
        "if self._cache is None:",
    ),
    Mutation(
        "cache whose rows are not those of the canvas once one has finished",
        "samplers/forward.py",
        "self._cache.select(torch.searchsorted(self._rows, step.rows))",
        "self._cache.select(torch.arange(len(step.rows)))",
    ),
)


@dataclass(frozen=True)
class Outcome:
    """What the tests made of an error."""

    caught_by: str | None
    tail: str


def main() -> None:
    options = parse()
    numbers = options.only or range(1, len(MUTATIONS) + 1)
    if (control := attempt(None)).caught_by is not None:
        raise SystemExit(f"a test fails without any error: {control.tail}")
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        outcomes = dict(zip(numbers, pool.map(attempt, numbers), strict=True))
    if options.only:
        for number, outcome in outcomes.items():
            print(f"{number}: {outcome.caught_by}\n{outcome.tail}\n")
        return
    text = report(outcomes)
    print(text)
    if options.name:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{options.name}.md").write_text(text, encoding="utf-8")
    if any(outcome.caught_by is None for outcome in outcomes.values()):
        sys.exit(1)


def attempt(number: int | None) -> Outcome:
    """Make one error, or none, in a copy of the repository and run the tests on it."""
    mutation = None if number is None else MUTATIONS[number - 1]
    with tempfile.TemporaryDirectory(prefix="dmpo-mutation-") as folder:
        copy = Path(folder) / "dmpo"
        keep = shutil.ignore_patterns(".*", "runs", "site", "__pycache__", "results")
        shutil.copytree(ROOT, copy, ignore=keep)
        if (ROOT.parent / "shared").is_dir():
            (Path(folder) / "shared").symlink_to(ROOT.parent / "shared")
        rooms = list(ROOMS)
        if mutation is not None:
            mutate(copy / "dmpo" / mutation.file, mutation)
            rooms.sort(key=lambda room: room != mutation.room)
        command = f"{sys.executable} -m pytest -x -q -p no:cacheprovider --no-header".split()
        run = subprocess.run(
            [*command, *(f"tests/{room}" for room in rooms)],
            cwd=copy,
            env={
                **os.environ,
                "OMP_NUM_THREADS": "1",
                "HF_HUB_OFFLINE": "1",
                "PYTHONPATH": str(copy),
            },
            capture_output=True,
            text=True,
            check=False,
        )
    failed = [line for line in run.stdout.splitlines() if line.startswith("FAILED")]
    if run.returncode and not failed:  # an error at collection is no test that noticed
        raise SystemExit(f"{mutation}: pytest ended with {run.returncode}: {run.stdout[-2000:]}")
    return Outcome(failed[0].split()[1].split("[")[0] if failed else None, run.stdout[-3000:])


def mutate(file: Path, mutation: Mutation) -> None:
    source = file.read_text(encoding="utf-8")
    if (count := source.count(mutation.old)) != 1:
        raise SystemExit(f"{mutation.file}: {mutation.old!r} is there {count} times")
    file.write_text(source.replace(mutation.old, mutation.new), encoding="utf-8")


def report(outcomes: dict[int, Outcome]) -> str:
    caught = sum(outcome.caught_by is not None for outcome in outcomes.values())
    lines = [
        "# Deliberate errors, one at a time",
        "",
        f"**{caught} of {len(outcomes)} are caught.** Named is the first test that fails.",
        "",
        "| | error | file | first test that fails |",
        "| ---: | --- | --- | --- |",
    ]
    for number, outcome in outcomes.items():
        mutation = MUTATIONS[number - 1]
        test = "**none**"
        if outcome.caught_by:
            path, _, name = outcome.caught_by.partition("::")
            test = f"`{name}` ({path.removeprefix('tests/')})"
        lines.append(f"| {number} | {mutation.error} | `{mutation.file}` | {test} |")
    return "\n".join([*lines, "", *provenance(), ""])


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", type=int, nargs="+", help="numbers of errors to make")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--name", help="write results/NAME.md")
    return parser.parse_args()


if __name__ == "__main__":
    main()
