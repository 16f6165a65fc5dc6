"""Recipes of Dream; ``dmpo recipes`` lists them beside dmpo's own."""
