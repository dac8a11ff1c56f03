"""Scores of generated 4D video, with intervals over episodes, and statistics of success rates."""
