"""Backups: a snapshot of the database, and the files that it names, at another place.

```
rows      every row of every table, from one database into another
transfer  blobs from one place to another, each checked on its way
place     where backups are: a directory, or a URL
snapshot  what one backup is, and the list of them
make      write one
check     whether a backup is whole, and whether a registry is
restore   a registry again
move      a SQLite registry to servers, the old one closed
```
"""
