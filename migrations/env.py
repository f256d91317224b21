"""Alembic's entry: runs the migrations on the connection that `worker.db.schema` hands over, in its transaction."""

from alembic import context
from sqlalchemy import Connection

from worker.db import VERSION_TABLE, schema_of
from worker.db.tables import metadata

connection = context.config.attributes.get("connection")
if not isinstance(connection, Connection):
    msg = "run the migrations with 'share-worker migrate': it holds the lock that keeps two from running at once"
    raise SystemExit(msg)

context.configure(
    connection=connection,
    target_metadata=metadata,
    compare_type=True,
    compare_server_default=True,
    render_as_batch=True,
    transactional_ddl=True,
    version_table=VERSION_TABLE,
    version_table_schema=schema_of(connection),
)
with context.begin_transaction():
    context.run_migrations()
