"""The origins that tests put behind the gateway, each a child process on a free loopback port.

`counting` counts every request it sees and misbehaves on demand, `smart_git` is `git http-backend` behind CGI, and
`wsgi_httpbin` is the PyPI package httpbin. All are started by `child.start` and die with the test process.
"""
