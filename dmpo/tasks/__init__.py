"""Tasks: where prompts come from, and how an answer is read and graded."""
