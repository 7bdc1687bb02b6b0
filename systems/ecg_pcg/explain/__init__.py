"""Attention and attribution over the cardiac cycle."""
