"""What may cross a hospital's wall, and how it is sealed."""
