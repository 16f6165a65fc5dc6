"""The loop, the buffer, checkpoints, tracking, supervised fine-tuning."""
