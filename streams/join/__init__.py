"""Predictions and late labels of one source partition, joined: rows that wait, cells of outcomes, and the fold."""
