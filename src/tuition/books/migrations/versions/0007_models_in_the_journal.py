"""Models and evaluations are in the journal from here on: `migrate` notes those that are there."""

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """No table changes."""


def downgrade() -> None:
    """Lines of the journal that name models stay; older versions pass over them."""
