"""Likelihoods: sets of noised views of a rollout."""
