"""The health of a project: verify, repair, what `status --store` and `doctor` say. Commands name its modules."""

__all__ = []
