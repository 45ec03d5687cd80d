"""The database: SQLite, or PostgreSQL for teams.

```
engine          connections, transactions, errors translated
tables          artifacts, channels, decisions
serving_tables  tenants, budgets, rollouts
access_tables   users, sign-ins, webhooks
feed_tables     rows of feeds, consents, feedback
triggers        what the database itself refuses to rewrite
migrations      from an older schema to this one, by the SQL in upgrades/
sqlite          its pragmas and its locks
postgresql      its locks and its timeouts
```
"""
