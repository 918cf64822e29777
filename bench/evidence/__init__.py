"""Evidence as it lies on disk: lines into numbers (`log`), numbers against what the certification is (`rows`). No torch.

`Certification` in bench/store/subject.py is the way in.
"""
