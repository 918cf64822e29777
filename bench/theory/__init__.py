"""Why the noise level must be one number for all inputs: Theorem 1 and Lemma 2 of the SmoothMix paper (appendix B), computed.

worst_case.py   what is left of a class's probability, without torch
ball.py         the classifier for which nothing more is left, counted by the suite's own sampler
plots.py        two pictures
"""
