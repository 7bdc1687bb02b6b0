"""ECG image, ECG signal and clinical table: normal or abnormal from any subset of the three."""
