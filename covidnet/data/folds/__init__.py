"""Balanced, patient-grouped folds, and who has scored the unseen one."""
