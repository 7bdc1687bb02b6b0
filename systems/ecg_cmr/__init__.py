"""ECG and cardiac MRI: pre-training, contrast, function and disease, cines generated from an ECG."""
