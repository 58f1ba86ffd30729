"""Where journals are kept: in memory, or in an SQLite file. Both answer ``interfaces.Store``."""
