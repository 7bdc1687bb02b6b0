"""Scores, statistics, figures and the report.

Everything here starts from a table of predictions, one row a test sample (for ``ecg-pcg`` a beat):

=============== ======= ================================================================
column          type    meaning
=============== ======= ================================================================
``sample``      int     number of the sample, unique within a fold
``recording``   str     recording that the sample was cut from
``session``     str     session of the recording: the unit that statistics draw
``person``      str     person, as far as known; empty where not
``fold``        int     fold whose model made the prediction, from 0
``label``       int     1 abnormal, 0 normal
``probability`` float   of class abnormal, 0 to 1
``threshold``   float   of the fold, from its validation part; 0.5 where there is none
=============== ======= ================================================================

``diagnosis`` and ``site`` may be there too and are carried along. ``seed`` and ``input`` (the signals that
the model was given) tell several runs in one table apart (`evaluation.comparison`); ``probe``, a score of the
recording conditions, is joined to the table of recordings (`systems.ecg_pcg.evaluate`,
`systems.ecg_pcg.audit`).
"""
