"""ECG and heart sound (PCG) of PhysioNet/CinC 2016 or of a cohort: normal or abnormal."""
