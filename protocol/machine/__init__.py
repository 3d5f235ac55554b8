"""The machine that a part runs on, at either side: its disk, its clock, how it speaks of
who does not answer, and how it reads what is answered a page at a time.
"""
