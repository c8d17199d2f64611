"""Recordings and streams through PyAV: read to their end, with a report of what is missing.

Training, evaluation, labelling, annotation and the runtime all read through this package.
"""
