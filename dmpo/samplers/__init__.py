"""Samplers: how a canvas of mask tokens is filled."""
