"""The mathematics, as pure functions of tensors: masking, likelihood, tilting, losses."""
