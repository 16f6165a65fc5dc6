"""The hub: whether it answers, and where what it gives is kept."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from dmpo.doctor.base import Check, found, readable_bytes
from dmpo.doctor.kernels import Trial
from dmpo.doctor.system import file_system, free_bytes

__all__ = ["NetworkFacts", "answer_of", "endpoint", "is_offline", "network_checks", "read_network"]

HUB: Final = "https://huggingface.co"
SECONDS: Final = 4.0
"""Until the hub counts as out of reach."""
LARGE: Final = 20 * 2**30
"""Bytes that an 8B model in bfloat16 takes, with some room."""
TRUE: Final = ("1", "ON", "YES", "TRUE")


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkFacts:
    """What was found of the hub."""

    endpoint: str
    """Its address, without what may stand for a password in it."""
    is_offline: bool
    """Whether HF_HUB_OFFLINE says not to ask it."""
    has_token: bool
    """Whether there is a token, in the environment or saved."""
    cache: str
    """Where models and data sets are kept."""
    cache_free: int | None
    """Bytes free there; None: unknown."""
    cache_kind: str
    """The file system there, ``ext4``; empty: unknown."""


def endpoint(environment: Mapping[str, str] = os.environ) -> str:
    """Return the hub's address, as HF_ENDPOINT has it."""
    return environment.get("HF_ENDPOINT", "").rstrip("/") or HUB


def is_offline(environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether the libraries are told not to ask the hub."""
    names = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    return any(environment.get(name, "").upper() in TRUE for name in names)


def answer_of(address: str) -> str:
    """Return what a server says to a request of a header: ``200``, or why there is nothing.

    Raises:
        OSError: If it does not answer in time.
        ValueError: If the address is none of the web's.
    """
    if urlsplit(address).scheme not in ("http", "https"):
        raise ValueError("HF_ENDPOINT is no address that begins with https://")
    request = urllib.request.Request(address, method="HEAD", headers={"User-Agent": "dmpo"})
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as answer:
            return str(answer.status)
    except urllib.error.HTTPError as error:
        return str(error.code)
    except urllib.error.URLError as error:
        raise OSError(str(getattr(error.reason, "strerror", None) or error.reason)) from None


def read_network(environment: Mapping[str, str] = os.environ) -> NetworkFacts:
    """Read where the hub is and where its files are kept; nobody is asked."""
    home = Path(
        environment.get("HF_HOME")
        or Path(environment.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    ).expanduser()
    cache = Path(environment.get("HF_HUB_CACHE") or home / "hub").expanduser()
    token = Path(environment.get("HF_TOKEN_PATH") or home / "token").expanduser()
    names = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
    return NetworkFacts(
        endpoint=_without_password(endpoint(environment)),
        is_offline=is_offline(environment),
        has_token=any(environment.get(name) for name in names) or bool(found(token.is_file)),
        cache=str(cache),
        cache_free=found(lambda: free_bytes(cache)),
        cache_kind=found(lambda: file_system(cache)) or "",
    )


def network_checks(facts: NetworkFacts, trial: Trial | None) -> tuple[Check, ...]:
    """Return the checks of the hub and of its cache.

    Args:
        facts: What was read.
        trial: How asking the hub went; None: it was not asked.
    """
    free = facts.cache_free
    is_small = free is not None and free < LARGE
    kind = f" ({facts.cache_kind})" if facts.cache_kind else ""
    room = "free space unknown" if free is None else f"{readable_bytes(free)} free"
    return (
        _hub_check(facts, trial),
        Check(
            area="network",
            name="hub token",
            state="ok" if facts.has_token else "absent",
            detail="yes" if facts.has_token else "no: models that ask for a licence stay closed",
        ),
        Check(
            area="network",
            name="hub cache",
            state="warning" if is_small else "ok",
            detail=f"{facts.cache}{kind}, {room}"
            + (f"; a model of 8B takes {readable_bytes(LARGE)}" if is_small else ""),
            fix="export HF_HOME=/path/with/room" if is_small else "",
        ),
    )


def _hub_check(facts: NetworkFacts, trial: Trial | None) -> Check:
    if trial is None:
        reason = "HF_HUB_OFFLINE is set" if facts.is_offline else "--no-network"
        return Check(
            area="network",
            name="hub",
            state="absent",
            detail=f"{facts.endpoint} was not asked: {reason}",
        )
    if trial.state != "ok":
        return Check(
            area="network",
            name="hub",
            state="warning",
            detail=f"{facts.endpoint} does not answer: {trial.detail.removeprefix('OSError: ')}",
            fix="export HF_HUB_OFFLINE=1",
        )
    answer = str(trial.values.get("answer", ""))
    refuses = answer.startswith("5")
    return Check(
        area="network",
        name="hub",
        state="warning" if refuses else "ok",
        detail=f"{facts.endpoint} answers with {answer} after {trial.seconds:.1f} s",
    )


def _without_password(address: str) -> str:
    """Return an address without user and password, which logs and reports are no place for."""
    parts = urlsplit(address)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
