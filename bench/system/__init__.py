"""The process the suite runs in: versions and devices, signals, helper processes, and what a loss must not change."""
