"""Who comes by an identity provider, devices that have signed in before, and when an admin changed somebody."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Bring the schema from the version before to this one."""
    op.add_column("people", sa.Column("changed", sa.DateTime(timezone=True), nullable=True))
    op.create_table(
        "links",
        sa.Column("person", sa.Text(), nullable=False),
        sa.Column("issuer", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["person"], ["people.name"]),
        sa.PrimaryKeyConstraint("person", name=op.f("pk_links")),
        sa.UniqueConstraint("issuer", "subject", name=op.f("uq_links_issuer_subject")),
    )
    op.create_table(
        "devices",
        sa.Column("token", sa.Text(), nullable=False),
        sa.Column("person", sa.Text(), nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["person"], ["people.name"]),
        sa.PrimaryKeyConstraint("token", name=op.f("pk_devices")),
    )
    with op.batch_alter_table("devices", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_devices_person"), ["person"], unique=False)
