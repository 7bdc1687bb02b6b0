"""Contours, measures, figures and files of cines."""
