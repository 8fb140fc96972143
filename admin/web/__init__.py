"""The pages: what people see of the control plane. Rendered here, useful without JavaScript, quick with it.

Nouns: a *page* (page) is a path with what it shows and, where it has a form, what the form does; a *view* is one request
to one, with who asks and in which project; an *answer* is HTML or a redirect. The life of a request is one function
(serve). Pages use the same nouns, specs and permissions as the API, and hold no rule of their own.

Templates escape everything. There is no inline script and no inline style; assets are served from our own origin under
names that change with their content. How it fails: what people can put right stands beside the field, everything else
is a page that says what happened; Postgres away is a 503 page.
"""
