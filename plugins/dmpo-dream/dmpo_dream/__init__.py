"""Dream, a diffusion language model grown out of Qwen2.5, as a policy and a sampler of dmpo."""
