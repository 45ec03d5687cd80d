"""The web interface: pages rendered on the server, over the registry's own database and API.

`app` puts them together; `pages` renders; each screen is a module in `screens` with its `routes`; `live`
tells open pages that something changed.
"""
