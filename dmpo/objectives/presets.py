"""Objectives that are combinations of parts that exist already: names, no code.

``dmpo train --objective wd1`` is an objective with other parts than its own; what a run keeps
in its config.yaml are the parts themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

__all__ = ["PRESETS", "Preset"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """A named combination."""

    summary: str
    """What it is and where it comes from, in one sentence."""
    objective: str
    """The registered objective that it is."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Parameters of that objective."""
    parts: Mapping[str, Mapping[str, Any]]
    """Names and parameters of likelihood, weights and baseline."""


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "dmpo_paper": Preset(
            summary="DMPO as its paper has it: the full step (c = 1) towards the target at "
            "α = 0.04, and the model baseline (2510.08233).",
            objective="dmpo",
            parts={
                "likelihood": {"name": "elbo", "num_views": 4, "antithetic": True},
                "weights": {"name": "tilted", "alpha": 0.04, "coefficient": 1.0},
                "baseline": {"name": "model"},
            },
        ),
        "wd1": Preset(
            summary="Weighted cross-entropy with exponential weights of the advantage and of its "
            "negative, on the fully hidden answer with 15% of the prompt hidden (2507.08838).",
            objective="dmpo",
            settings={"normalisation": "canvas"},
            parts={
                "likelihood": {"name": "mean_field", "prompt_mask": 0.15},
                "weights": {"name": "tilted", "alpha": 0.0, "eta": 1.0},
                "baseline": {"name": "individual"},
            },
        ),
        "dipod": Preset(
            summary="DMPO whose baseline leaves 5% of the cross-entropy of its own rollouts, which "
            "keeps the bound tight (DiPOD, 2606.13795).",
            objective="dmpo",
            parts={
                "likelihood": {"name": "elbo"},
                "weights": {"name": "tilted", "alpha": 0.04, "coefficient": 1.0},
                "baseline": {"name": "mean", "strength": 0.95},
            },
        ),
        "log_variance": Preset(
            summary="Distribution matching without importance weights: the gradient is that of the "
            "variance, inside a group, of log p_θ − log p_ref − r/α (2010.10436).",
            objective="dmpo",
            parts={
                "likelihood": {"name": "elbo"},
                "weights": {"name": "linear", "alpha": 0.1, "coefficient": 0.1},
                "baseline": {"name": "model"},
            },
        ),
        "rejection_sampling": Preset(
            summary="Cross-entropy on the rollouts of a group in proportion to exp(10 r): "
            "fine-tuning on what was good, without reference and baseline.",
            objective="dmpo",
            parts={
                "likelihood": {"name": "elbo"},
                "weights": {"name": "tilted", "alpha": 0.0, "eta": 10.0},
                "baseline": {"name": "none"},
            },
        ),
        "gdpo": Preset(
            summary="ESPO's ratio of whole responses, the ELBO's integral over time by Gauss' "
            "quadrature, biased and of little variance (GDPO, 2510.08554).",
            objective="espo",
            parts={
                "likelihood": {"name": "elbo", "masking": "quadrature", "num_views": 3},
                "weights": {"name": "advantage"},
                "baseline": {"name": "none"},
            },
        ),
        "d2": Preset(
            summary="diffu-GRPO's clipped ratio on eight states of the rollout's own path, each "
            "scoring the tokens up to the next (d2-StepMerge, 2509.21474).",
            objective="trace_rl",
            settings={
                "epsilon": 0.5,
                "beta": 0.04,
                "divergence_to": "reference",
                "normalisation": "token",
            },
            parts={
                "likelihood": {"name": "trace", "steps": "merged", "merge": None, "num_views": 8},
                "weights": {"name": "advantage"},
                "baseline": {"name": "none"},
            },
        ),
        "agrpo": Preset(
            summary="Token ratios at sampled steps of the path, each weighed by the inverse of its "
            "probability, so that the mean is over all steps (AGRPO, 2510.04019).",
            objective="trace_rl",
            settings={"beta": 0.0, "normalisation": "canvas"},
            parts={
                "likelihood": {
                    "name": "trace",
                    "steps": "sampled",
                    "merge": None,
                    "num_views": 8,
                    "probability": "entropy",
                },
                "weights": {"name": "advantage", "scale": "std"},
                "baseline": {"name": "none"},
            },
        ),
    }
)
"""Presets by the name that ``--objective`` accepts."""
