"""What may cross a hospital's wall, and how it is sealed."""

VERSION = "1.0.0"
"""The one version number of Consilium: agents, coordinator and client all import
protocol and are released together.

A package build reads it from this file, and CHANGELOG.md names it at a release. No
other file has it.
"""
