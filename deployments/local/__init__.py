"""A federation on one machine: as processes, or in one process."""
