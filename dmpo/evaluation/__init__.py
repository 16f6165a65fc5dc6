"""Evaluation: accuracy tables."""
