"""CERTIFY: counts of the classes that a base classifier gives to noisy copies of one image.

Source: Cohen, Rosenfeld, Kolter, "Certified Adversarial Robustness via Randomized Smoothing", ICML 2019, procedure CERTIFY.
What is guaranteed, what is not, and what bounds the speed: docs/notes/certification.md.
"""

from bench.certify.rows import count_images, several
from bench.certify.sampler import Sampler

__all__ = ["Sampler", "count_images", "several"]
