"""What a results folder holds: runs, checkpoints and imported logs, each with its certifications."""
