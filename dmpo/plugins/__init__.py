"""Plugins from outside: a package to begin with, and what is installed."""
