"""geo4d-bench: does a policy that plans by generating 4D video still work when the cameras move?

Frames and units, everywhere: ``T_a_b`` is a 4x4 float64 pose that takes points in b to a; cameras use OpenCV axes
(x right, y down, z forward); pixel (u, v) has its centre at (u, v); metres, seconds, radians.
"""

__version__ = "0.1.0"
