"""A page for the hospital's own people, on this machine only: what was asked, refused
and sent, and what waits.
"""
