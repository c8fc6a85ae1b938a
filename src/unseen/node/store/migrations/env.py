"""Runs migrations on the connection that the store hands over; alembic loads this file."""

from alembic import context

from unseen.node.store.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, render_as_batch=True)
context.run_migrations()
