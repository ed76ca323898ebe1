"""Model families: what distinguishes them, one file a family, and how a folder's family is recognized."""
