"""MuJoCo models as they are simulated and drawn, for robots and for policies."""
