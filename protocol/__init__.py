"""What may cross a hospital's wall, and how it is sealed."""

VERSION = "1.0.0"
