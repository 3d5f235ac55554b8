"""One order at a hospital: verified, agreed on, approved by a person; and the one door
through which bytes leave.
"""
