"""Draw the pictures of docs/concepts anew: ``python docs/pictures.py``.

What they show is computed: by the library's own functions, on rollouts of the tiny LLaDA inside the
package, or read from benchmarks/results. Every draw has a generator of its own, so the pictures
come out the same each time, up to the last digit of what is drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from drawn import baselines, groups, masked_diffusion, metrics, samplers

FOLDER = Path(__file__).with_name("images") / "concepts"

PICTURES: Mapping[str, Callable[[], str]] = {
    "unmasking": masked_diffusion.unmasking,
    "left_to_right": masked_diffusion.left_to_right,
    "views": masked_diffusion.views,
    "elbo_noise": masked_diffusion.elbo_noise,
    "loop": groups.loop,
    "target": groups.target,
    "group": groups.group,
    "ess": groups.ess,
    "diversity": groups.diversity,
    "wrong_share": baselines.wrong_share,
    "real_weights": baselines.real_weights,
    "ablation": baselines.ablation,
    "orders": samplers.orders,
    "caches": samplers.caches,
    "passes": samplers.passes,
    "curves": metrics.curves,
}
"""By the name of the file."""


def main() -> None:
    """Write every picture."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, draw in PICTURES.items():
        (FOLDER / f"{name}.svg").write_text(draw(), encoding="utf-8")


if __name__ == "__main__":
    main()
