"""Settings of simulated recordings of ECG and heart sound."""

from __future__ import annotations

from dataclasses import dataclass

from common.options import Count, NotNegative, Seed, Share


@dataclass(frozen=True)
class SimulationSettings:
    """A cohort of simulated patients in the layout of training-a."""

    sessions: Count = 24
    """Sessions. Room and mains noise belong to a session."""
    persons: Count = 3
    """Persons in one session. Body and sensor coloration belong to a person."""
    recordings: Count = 3
    """Recordings of one person, each at another auscultation site."""
    duration: float = 16.0
    """Length of one recording, seconds (the shortest is three quarters of it)."""
    abnormal_share: Share = 0.6
    """Share of persons with a systolic murmur, 0 to 1."""
    fingerprint: NotNegative = 1.0
    """Strength of person and session coloration: 0 none, 1 strong enough to recognize a person."""
    seed: Seed = 0
    """Seed of the cohort; the same seed writes the same files."""
