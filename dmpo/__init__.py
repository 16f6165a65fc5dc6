"""Fine-tune diffusion language models by distribution matching policy optimization."""

__version__ = "0.1.0"
