"""A night of many tenants over one base, by real schedules, servers and workers; also while they are killed.

plan      what the tenants learn from, and what is planted
world     PostgreSQL, an S3 server, Prefect and two workers, started again whenever they end
night     one night in such a world, and what came of it
kills     kill -9 at random moments
"""
