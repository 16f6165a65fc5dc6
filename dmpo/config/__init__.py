"""Settings: pydantic models, recipes, layers, assembly."""
