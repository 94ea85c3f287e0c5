"""The disk room: the only one that touches files. Gates, helpers, open files.

This file stays empty: a helper process imports the package without trio (see carriers.py).
"""
