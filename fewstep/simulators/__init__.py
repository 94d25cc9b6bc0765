"""MuJoCo: simulation and rendering of robots, shared by the applications `robots` and `policies`."""
