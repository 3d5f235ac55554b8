"""`./run release`: what is handed to hospitals and users, made from one commit.

    consilium_*.whl                     the four packages
    requirements-PART-3.NN.txt          each part's lock, with hashes, for each Python;
                                        sqlserver and oracle are drivers of the agent
    consilium-agent-VERSION-py3.NN.tar  the agent's offline bundle for that Python
    consilium-agent-VERSION-py3.NN.cdx.json   what is in it, as CycloneDX
    SHA256SUMS, SHA256SUMS.sig          of all of them, signed by the maker's key

The same commit gives the same bytes, whoever makes it: files are taken from the commit,
times are the commit's, and every package is the one whose hash stands in the lock.
Decision 100.
"""
