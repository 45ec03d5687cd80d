"""Who may use the web interface: signing in, sessions, forms that only our own pages can send.

```
access    what the application mounts: routes and middleware
guard     each request: from where, by whom, with which form
sign_in   the pages of signing in and out
oidc      signing in through OpenID Connect
caller    who asks, and the cookies that say so
throttle  no more than so many wrong tokens
users     the screens of users
webhooks  the screens of webhooks
```
"""
