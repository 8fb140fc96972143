"""Mail: queued in the outbox with its cause, written and sent by the worker, tried again until it is taken or too late.

A *letter* (letters) is what is queued: a kind, a recipient and the facts. A *message* (letters.write) is what it reads
like. A *transport* (transports) takes messages: the console, an SMTP server or Resend. The *post* (post) brings due
letters to the transport.

The text of a sign-in link exists in the worker's memory and in the mail; what is queued is only that one is wanted.
Bounds: a letter is tried for as long as it is of use (a sign-in link 15 minutes, else 3 days), then given up and logged.
Sent at least once: a worker that dies between sending and noting so sends again.
"""
