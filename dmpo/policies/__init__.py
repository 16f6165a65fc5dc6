"""Diffusion language models behind one interface."""
