"""Local moves on coarser and coarser graphs."""
