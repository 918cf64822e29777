"""The matrix of methods, noise levels and seeds: its plan, its cost, and one cell from the first step to the last row."""
