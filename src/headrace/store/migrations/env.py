"""Runs migrations on the connection and in the transaction that `migrate` has opened."""

from alembic import context

from headrace.store.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
