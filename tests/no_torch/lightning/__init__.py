"""In the place of the real one, for programs that must end before they need it (NO_TORCH in tests/running.py)."""

raise RuntimeError("lightning was imported")
