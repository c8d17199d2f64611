"""Recordings and streams through PyAV: read to their end, or with an account of what is missing.

Training, evaluation, labelling, annotation and the runtime all read through this package.
"""
