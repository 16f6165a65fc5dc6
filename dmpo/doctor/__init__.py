"""What this machine can do for training: found out by trying, and said with what would help."""
