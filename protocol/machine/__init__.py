"""The machine that a part runs on, at either side: its disk, its clock, and how it
speaks of who does not answer.
"""
