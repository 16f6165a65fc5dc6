"""Objectives: likelihood, weight and loss shape put together."""
