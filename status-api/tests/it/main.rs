//! Against a real PostgreSQL, through the binary.
