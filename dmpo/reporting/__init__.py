"""Reports of runs: what they wrote down, read back as tables, curves and pages."""
