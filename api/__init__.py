"""The coordinator's REST facade: orders, exchange, store, authentication."""
