"""Function and disease from the ECG alone."""
