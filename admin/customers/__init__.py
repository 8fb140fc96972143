"""Customers: whoever a project serves and meters, and the subscription that gives each a tier.

A customer's id follows from the project's own id for it (ledger.ids.customer_id_for), so a gateway can count an end
user before anyone wrote the row; such a customer is `seen` until it is declared here. A tier given to a customer is a
subscription: it begins with an anchor, moves between tiers keeping the anchor, and ends when the tier is taken away.
"""
