"""The process that asks math-verify: one JSON line in, one JSON line out, until its input ends.

Started by :mod:`dmpo.tasks.mathematics`, which kills it when an answer takes too long. Nothing
that math-verify or SymPy does to a hostile text (recursion, gigabytes, hours) reaches further
than this process.
"""

from __future__ import annotations

import contextlib
import json
import logging
import resource
import signal
import sys
from typing import Any

MEMORY = 4 * 1024**3
READY = "ready"
SECONDS_AFTER_THE_PARENT = 5
"""How long a computation may outlive the parent that should have ended it."""


def main() -> None:
    """Serve requests from standard input."""
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Whatever a library prints must not reach the pipe that carries verdicts.
    replies, sys.stdout = sys.stdout, sys.stderr
    logging.disable()
    _equivalent("\\frac{1}{2}", "0.5")
    print(READY, file=replies, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        # The default action of the alarm ends the process, also within C code.
        signal.alarm(int(request["seconds"]) + SECONDS_AFTER_THE_PARENT)
        verdict = _equivalent(request["answer"], request["reference"])
        signal.alarm(0)
        print(json.dumps({"id": request["id"], "verdict": verdict}), file=replies, flush=True)


def _equivalent(answer: str, reference: str) -> bool:
    from math_verify import verify

    try:
        gold = _parsed(reference)
        given = _parsed(answer)
        return bool(gold and given) and verify(
            gold, given, allow_set_relation_comp=True, timeout_seconds=None, raise_on_error=True
        )
    except Exception:  # whatever SymPy raises on such text, it has not shown them equal
        return False


def _parsed(text: str) -> list[Any]:
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse

    found: list[Any] = parse(
        f"\\boxed{{{text}}}",
        extraction_config=[LatexExtractionConfig(), ExprExtractionConfig()],
        parsing_timeout=None,
    )
    return found


if __name__ == "__main__":
    main()
