"""The half of the Python API that needs torch; the other half, which reads, is `leaderboard.frame`. Users find both in `bench`.

own_model.py  certifies any torch module
conduct.py    trains and certifies, as `bench run`
matrix.py     the cells of a request: announced, handed to an executor, waited for
study.py      what is asked for as a TOML file, read and written
request.py    what both `bench run` and `bench.run` are asked for, checked and planned
progress.py, words.py  what is shown meanwhile
"""
