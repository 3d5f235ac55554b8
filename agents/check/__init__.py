"""What is wrong with an installation, with a policy, or with an order before it is sent;
and how to put it right.

Every check answers with findings (`findings.py`). `site.py` has those of an installation,
`coordinator.py` those of what it dials out to, `pins.py` those of keys; `order/` what this
hospital's gate would say to an order.
"""
