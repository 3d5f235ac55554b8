"""What is set, allowed, kept and written down at a hospital: settings, policy, vault,
ledger.
"""
