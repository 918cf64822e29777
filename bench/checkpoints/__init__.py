"""Certification of anyone's model: weight files of the field and of the suite, timm's networks, factories of the user's own.

`files` reads weight files without running code from them, `fit` holds their tensors against an architecture, `normalize` says
what stands before the network, `load` puts the base classifier together, `check` measures its accuracy before the long
work starts, `stored` keeps the evidence, `export` writes the field's layout.
"""
