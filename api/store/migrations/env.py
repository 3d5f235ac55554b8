"""Runs the store's migrations on the connection that the store hands over."""

from alembic import context

from api.store.tables import metadata

# The transaction is the store's, and so is its end: a step that fails undoes all of
# them.
context.configure(
    connection=context.config.attributes["connection"], target_metadata=metadata
)
with context.begin_transaction():
    context.run_migrations()
