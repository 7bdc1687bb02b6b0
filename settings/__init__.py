"""Settings of the tasks beyond ``ecg-pcg``; those that all tasks share are in ``config.py``."""
