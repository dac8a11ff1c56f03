"""SE(3), pinhole cameras, rigs and pointmaps. Depends on numpy and scipy only, and on seeding."""
