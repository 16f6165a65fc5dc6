"""Random generators that depend on nothing but what they are for.

A run resumes bit for bit because no stream outlives the call it was made for: a generator is
seeded by (seed, rank, step, purpose), and a checkpoint needs only those numbers. What is drawn for
a group is seeded by the group's place in the run and not by the rank, so that the number of
processes changes nothing; dropout alone knows its rank.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from dmpo.diffusion.draws import GroupGenerator
from dmpo.records import Prompts

__all__ = ["generator_for", "group_generator", "seed_for", "seeded_dropout"]


def seed_for(seed: int, rank: int, step: int, purpose: str) -> int:
    """Return a 63-bit seed: the head of SHA-256 over the four facts."""
    key = f"{seed}/{rank}/{step}/{purpose}".encode()
    return int.from_bytes(hashlib.sha256(key).digest()[:8], "big") >> 1


def generator_for(
    seed: int, rank: int, step: int, purpose: str, device: str | torch.device = "cpu"
) -> torch.Generator:
    """Return a fresh generator for one purpose at one step of one rank.

    Args:
        seed: The run's seed.
        rank: Process index, from 0.
        step: Gradient step, from 0.
        purpose: What is drawn: ``"rollout"``, ``"draw"``, …
        device: Where the generator draws.

    Returns:
        A generator whose stream is independent of every other purpose, step and rank.
    """
    return torch.Generator(device=device).manual_seed(seed_for(seed, rank, step, purpose))


def group_generator(seed: int, step: int, purpose: str, prompts: Prompts) -> GroupGenerator:
    """Return a fresh generator for one purpose at one step, with a stream for each group.

    Args:
        seed: The run's seed.
        step: Gradient step, from 0.
        purpose: What is drawn.
        prompts: Whose places in the run tell the groups apart.
    """
    index = prompts.index
    keys = torch.arange(len(prompts.examples)) if index is None else index
    return GroupGenerator(seed_for(seed, 0, step, purpose), keys)


@contextmanager
def seeded_dropout(seed: int, device: torch.device) -> Iterator[None]:
    """Seed the global stream for what takes no generator, and put it back afterwards.

    Dropout alone draws from it. Without this, a resumed run would drop other units than an
    uninterrupted one.

    Args:
        seed: From :func:`seed_for`.
        device: The policy's.
    """
    is_cpu = device.type == "cpu"
    fork_type = "cuda" if is_cpu else device.type
    with torch.random.fork_rng(devices=[] if is_cpu else [device], device_type=fork_type):
        # torch.manual_seed would ask every kind of device that exists, at each step.
        (torch.default_generator.manual_seed if is_cpu else torch.manual_seed)(seed)
        yield
