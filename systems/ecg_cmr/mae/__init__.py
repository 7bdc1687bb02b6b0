"""Masked autoencoders of ECG and cine."""
