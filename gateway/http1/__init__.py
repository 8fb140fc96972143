"""HTTP/1.1 as bytes: what a message is allowed to look like (RFC 9110, RFC 9112), and nothing else.

Nouns: a *head* (start line and field section), its *fields*, the *framing* of its body, a *chunk*. `head` finds where
a head ends in a buffer, `request` and `response` read start lines, `fields` reads field sections, `chunked` decodes
bodies.

The rule throughout: read strictly, and forward nothing that two readers could understand differently. There is no
lenient mode. Everything is a function of bytes alone (a chunk decoder keeps its own state): no I/O, clock or settings.

How it fails: `errors.Malformed`, with the catalogue entry for the client and a detail that never repeats a value.
A call costs 0.1 to 2 µs: the heavy lifting is a few C calls over whole lines and blocks, never a loop over bytes.
"""
