"""The network of ECG image, ECG signal and clinical table, and its branches."""
