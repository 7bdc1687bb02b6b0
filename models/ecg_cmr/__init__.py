"""Networks of ECG and cardiac MRI."""
