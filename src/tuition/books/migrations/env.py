"""Alembic's entry: run the revisions on the connection, and inside the transaction, of `books/migrate`."""

from alembic import context

from tuition.books.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=True,
    render_as_batch=True,  # SQLite cannot alter a column in place
)
with context.begin_transaction():
    context.run_migrations()
