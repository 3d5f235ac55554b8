"""The page at the coordinator's address: what the API answers, to look at. It asks the
API with the visitor's token.
"""
