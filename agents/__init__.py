"""Inside a hospital: the only package that sees rows, and the one door that lets
anything out.
"""
