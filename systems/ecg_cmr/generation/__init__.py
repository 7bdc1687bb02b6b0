"""Cines generated from an ECG."""
