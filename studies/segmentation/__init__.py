"""The segmentation of heart sounds: fit and benchmark."""
