"""Weight estimators and weight baselines."""
