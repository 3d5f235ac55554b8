"""The demonstrations, their data, and what they show on the screen."""
