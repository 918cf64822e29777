"""certbench: training methods for certified robustness by randomized smoothing, compared on equal terms."""
