"""Figures of a training run, one subject a file: functions of arrays that return a matplotlib figure.

A figure takes its colours from matplotlib's settings, which ``style.png`` sets for light or dark paper.
"""
