"""What docs/pictures.py draws, a module for each page of docs/concepts."""
