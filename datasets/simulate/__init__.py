"""Virtual patients: latent physiology, signals rendered from it, cohorts in the layout of training-a."""

from datasets.simulate.cohort import PlannedRecording, plan_cohort, simulate_recording, write_cohort
from datasets.simulate.patient import VirtualPatient

__all__ = ["PlannedRecording", "VirtualPatient", "plan_cohort", "simulate_recording", "write_cohort"]
