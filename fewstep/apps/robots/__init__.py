"""Dynamics of MuJoCo robots with faults, and model-predictive control."""
