r"""The prompts of the paper's four tasks (DMPO, Appendix C; the same as d1's, arXiv 2504.12216).

Data, not prose: published figures were measured with exactly these texts, down to a space behind
``\boxed{}.`` in one and none in another.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = [
    "COUNTDOWN_SYSTEM",
    "GSM8K_SYSTEM",
    "MATH500_SYSTEM",
    "PREFILL",
    "SUDOKU_SYSTEM",
    "countdown_question",
    "paper_answer",
    "sudoku_question",
    "user_message",
]

PREFILL = "<reasoning>"
"""The beginning of the answer, which the policy is given."""

_FORMAT = """\
Respond in the following format:
<reasoning>
Your reasoning here
</reasoning>
<answer>
\\boxed{...}
</answer>"""

GSM8K_SYSTEM = (
    "You are a math expert. You will be given a question to solve. Solve it step by step. "
    "Wrap the final answer in a \\boxed{}. \n" + _FORMAT
)
"""What a GSM8K question stands behind."""

MATH500_SYSTEM = (
    "You are a math expert. You will be given a question to solve. Solve it step by step. "
    "Wrap the final answer in a \\boxed{}.\n" + _FORMAT
)
"""What a MATH-500 question stands behind."""

COUNTDOWN_SYSTEM = (
    "Using only the provided numbers, create an arithmetic expression that evaluates to exactly "
    "the provided target number. You may use the operations +, -, *, and / as needed, but each "
    "number must be used exactly once. Think step-by-step. After reasoning, provide only your "
    "final expression inside \\boxed{} tags without including an equals sign or the target "
    "number. For example: \\boxed{a + b * c}" + _FORMAT
)
"""What a Countdown question stands behind."""

SUDOKU_SYSTEM = """
Please solve the following 4x4 Sudoku puzzle. The puzzle is provided as a 16-character string \
reading left-to-right, top-to-bottom, where '0' represents empty cells.

Rules:
- Fill empty cells with digits 1-4
- Each row must contain digits 1-4 exactly once
- Each column must contain digits 1-4 exactly once
- Each 2x2 box must contain digits 1-4 exactly once

Important: Your solution must be a COMPLETE 16-character string with only the digits 1-4, \
representing your final solved grid.

Respond in this exact format:
<reasoning>
Your step-by-step solving process
</reasoning>
<answer>
[16-character solution string with no spaces or separators]
</answer>
"""
"""What a Sudoku puzzle stands behind."""


def user_message(system: str, question: str) -> str:
    """Return the one message that a policy reads: there is no system role."""
    return f"{system}\n\n{question}"


def countdown_question(numbers: Sequence[int], target: int) -> str:
    """Return the question of a Countdown problem."""
    return f"Numbers: [{', '.join(map(str, numbers))}]\nTarget: {target}"


def sudoku_question(puzzle: str) -> str:
    """Return the question of a Sudoku puzzle, given as 16 digits."""
    return f"Solve the following Sudoku puzzle: {puzzle}\n"


def paper_answer(reasoning: str, answer: str) -> str:
    """Return an answer in the paper's format that goes on from :data:`PREFILL`."""
    return f"\n{reasoning.strip()}\n</reasoning>\n<answer>\n{answer}\n</answer>"
