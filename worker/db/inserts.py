"""INSERT with ON CONFLICT, which SQLAlchemy has for each database, and SQL for neither."""

from sqlalchemy import Table
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection


def insert_into(connection: AsyncConnection, table: Table) -> postgresql.Insert | sqlite.Insert:
    """An INSERT into a table that can be told what to do about rows that are there already."""
    return (postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert)(table)
