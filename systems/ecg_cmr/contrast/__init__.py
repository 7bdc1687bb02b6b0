"""Contrastive alignment of ECG and cine."""
